"""One training framework and a bare loop in one process, in turns: what the framework adds to each step.

    python -m tests.benchmarks.training_tax slipway [--rounds 10]

After each of the framework's steps the bare loop takes one of its own, so that whatever else the machine does slows
both alike. Both have the same model, loss, optimizer and clipping, and one thread; only what is around them differs.
The bare loop's batches lie in memory; a framework brings its own loader, and what its threads compute meanwhile counts
as its own. The framework `bare` is a second bare loop: what it adds is the error of the measurement. Prints one JSON
object: for each size, a list of rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.loop import Training
from pipelines.training.loss import NextTokenLoss
from pipelines.training.model import build_model
from pipelines.training.optimizer import build_optimizer
from pipelines.training.strategies.single import SingleRank
from pipelines.training.supervision.heartbeat import LiveState

CPU = torch.device("cpu")
NUM_TOKENS = 200_000


@dataclass(frozen=True)
class Size:
    """A model, its batch, and how long to look."""

    architecture: ArchitectureConfig
    vocabulary_size: int
    batch_size: int
    sequence_length: int
    warm_up_steps: int
    round_steps: int
    """Steps whose mean is one measurement."""


SIZES: Mapping[str, Size] = {
    "small": Size(
        ArchitectureConfig(
            hidden_size=16, intermediate_size=32, num_layers=1, num_heads=1, num_key_value_heads=1, context_length=16
        ),
        vocabulary_size=64,
        batch_size=4,
        sequence_length=16,
        warm_up_steps=100,
        round_steps=200,
    ),
    "large": Size(ArchitectureConfig(hidden_size=128), 2048, 4, 128, warm_up_steps=4, round_steps=8),
}


@dataclass(frozen=True)
class Seconds:
    """A moment, or the time between two."""

    wall: float
    process: float
    """CPU time of all threads."""

    thread: float
    """CPU time of this one."""

    @classmethod
    def now(cls) -> Self:
        """Read the clocks."""
        return cls(time.perf_counter(), time.process_time(), time.thread_time())

    def since(self, before: Seconds) -> Seconds:
        """Return how much later this moment is than another."""
        return Seconds(self.wall - before.wall, self.process - before.process, self.thread - before.thread)


class Turns:
    """Lets the bare loop take a step after each of a framework's, and keeps the wall and CPU seconds of both."""

    def __init__(self, bare: Iterator[None], warm_up_steps: int) -> None:
        self._bare, self._warm_up_steps = bare, warm_up_steps
        self._resumed = Seconds.now()
        self.steps: list[tuple[tuple[float, float], tuple[float, float]]] = []
        """Of each pair of steps the framework's seconds and the bare loop's."""

    def stepped(self, step: int) -> None:
        """Say that the framework has done a step, counted from 1."""
        its = Seconds.now().since(self._resumed)
        with _undetermined():
            began = Seconds.now()
            next(self._bare)
            bare = Seconds.now().since(began)
        if step > self._warm_up_steps:
            elsewhere = bare.process - bare.thread  # what the framework's other threads did meanwhile
            self.steps.append(((its.wall, its.process + elsewhere), (bare.wall, bare.thread)))
        self._resumed = Seconds.now()

    def rounds(self, round_steps: int) -> list[dict[str, list[float]]]:
        """Return the mean seconds per step of both sides, round by round."""
        pairs = np.array(self.steps)
        whole = pairs[: len(pairs) // round_steps * round_steps].reshape(-1, round_steps, 2, 2).mean(axis=1)
        return [{"framework": own, "bare": bare} for own, bare in whole.tolist()]


@contextlib.contextmanager
def _undetermined() -> Iterator[None]:
    """Let the bare loop compute as torch does by default, whatever the framework asked for."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


class Ticking(LiveState):
    """Lets the loop take turns."""

    def __init__(self, stepped: Callable[[int], None]) -> None:
        super().__init__()
        self._stepped = stepped

    def stepped(self, step: int) -> None:
        """Let the other side take its turn."""
        super().stepped(step)
        self._stepped(step)


def make_job(folder: Path, size: Size, rounds: int) -> TrainingJob:
    """Lay out a training on random tokens that saves only at its end, a few steps after the last round's."""
    tokens = np.random.default_rng(0).integers(1, size.vocabulary_size, NUM_TOKENS)
    document = EncodedDocument(id="all", tokens=tokens)
    write_shards(folder / "tokens", {"train": [document]}, vocabulary_size=size.vocabulary_size, eos_id=0)
    steps = size.warm_up_steps + rounds * size.round_steps + 2
    job = TrainingJob(
        architecture=size.architecture,
        training=TrainingConfig(
            max_steps=steps,
            warmup_steps=1,
            batch_size=size.batch_size,
            sequence_length=size.sequence_length,
            checkpoint_every_steps=steps,
            precision="fp32",
        ),
        tokens=folder / "tokens",
        tokenizer=folder,
        workspace=folder / "work",
        store_url=f"file://{folder / 'store'}",
        checkpoints="checkpoints/bench",
    )
    job.save()
    return job


def make_module(job: TrainingJob, size: Size) -> NextTokenLoss:
    """Return the model with its loss."""
    return NextTokenLoss(build_model(job.architecture, vocabulary_size=size.vocabulary_size, eos_id=0, seed=1))


def random_windows(job: TrainingJob, size: Size) -> torch.Tensor:
    """Return enough windows for all steps, shape (windows, sequence_length + 1)."""
    shape = (job.training.max_steps * size.batch_size, size.sequence_length + 1)
    return torch.from_numpy(np.random.default_rng(1).integers(1, size.vocabulary_size, shape))


def bare_steps(job: TrainingJob, size: Size) -> Iterator[None]:
    """Take the steps of a training, one each time that the next is asked for."""
    module = make_module(job, size)
    optimizer = build_optimizer(module, job.training, CPU)
    for batch in random_windows(job, size).split(size.batch_size):
        module(batch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), job.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def bare(job: TrainingJob, size: Size, turns: Turns) -> None:
    """Train with nothing around it."""
    for step, _ in enumerate(bare_steps(job, size), start=1):
        turns.stepped(step)


def slipway(job: TrainingJob, _size: Size, turns: Turns) -> None:
    """Train with Slipway's loop: data from the disk, readings, schedule, watch for bad numbers, call to stop."""
    Training(job, SingleRank(CPU), Ticking(turns.stepped)).run()


def transformers_trainer(job: TrainingJob, size: Size, turns: Turns) -> None:
    """Train with the Trainer of transformers."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Tick(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.stepped(state.global_step)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = make_module(job, size)

        def forward(self, windows: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.module(windows)}

    arguments = TrainingArguments(
        output_dir=str(job.workspace / "trainer"),
        max_steps=job.training.max_steps,
        per_device_train_batch_size=size.batch_size,
        optim="adamw_torch_fused",
        max_grad_norm=job.training.clip_norm,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    data = [{"windows": window} for window in random_windows(job, size)]
    Trainer(Named(), arguments, train_dataset=data, callbacks=[Tick()]).train()


def lightning(job: TrainingJob, size: Size, turns: Turns) -> None:
    """Train with the Trainer of PyTorch Lightning."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class Tick(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            turns.stepped(trainer.global_step)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = make_module(job, size)

        def training_step(self, batch: list[torch.Tensor], _number: int) -> torch.Tensor:
            return self.module(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return build_optimizer(self.module, job.training, CPU)

    trainer = Trainer(
        max_steps=job.training.max_steps,
        accelerator="cpu",
        gradient_clip_val=job.training.clip_norm,
        callbacks=[Tick()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(random_windows(job, size)), batch_size=size.batch_size))


Framework = Callable[[TrainingJob, Size, Turns], None]
FRAMEWORKS: Mapping[str, Framework] = {
    "bare": bare,
    "slipway": slipway,
    "transformers": transformers_trainer,
    "lightning": lightning,
}


def measure(framework: Framework, size: Size, rounds: int) -> list[dict[str, list[float]]]:
    """Return wall and CPU seconds per step of both sides, round by round."""
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), size, rounds)
        turns = Turns(bare_steps(job, size), size.warm_up_steps)
        framework(job, size, turns)
        return turns.rounds(size.round_steps)


def main() -> None:
    """Measure one framework with a model of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--rounds", type=int, default=10, help="of each size (default 10)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    framework = FRAMEWORKS[arguments.framework]
    print(json.dumps({name: measure(framework, size, arguments.rounds) for name, size in SIZES.items()}))


if __name__ == "__main__":
    main()
