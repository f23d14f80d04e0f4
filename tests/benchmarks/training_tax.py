"""One training framework against a bare loop in the same process: what it adds to each step.

    python -m tests.benchmarks.training_tax slipway small

Both sides take the same steps with the same model, loss, optimizer and clipping, on one thread; only what is around
them differs. The bare loop's batches lie in memory; a framework brings its own loader. The clock runs from one step's
end to another's, past the start and before the end. Prints a JSON list of rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    steps: int


SIZES: Mapping[str, Size] = {
    "small": Size(
        ArchitectureConfig(
            hidden_size=16, intermediate_size=32, num_layers=1, num_heads=1, num_key_value_heads=1, context_length=16
        ),
        vocabulary_size=64,
        batch_size=4,
        sequence_length=16,
        warm_up_steps=50,
        steps=400,
    ),
    "large": Size(ArchitectureConfig(hidden_size=128), 2048, 4, 128, warm_up_steps=3, steps=20),
}


@dataclass
class Clock:
    """Wall and CPU seconds between the ends of two steps."""

    first: int
    last: int
    _started: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    per_step: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    """Wall and CPU seconds of all threads."""

    def tick(self, step: int) -> None:
        """Say that a step is done, counted from 1."""
        if step == self.first:
            self._started = time.perf_counter(), time.process_time()
        if step == self.last:
            now, steps = (time.perf_counter(), time.process_time()), self.last - self.first
            self.per_step = (now[0] - self._started[0]) / steps, (now[1] - self._started[1]) / steps


class Ticking(LiveState):
    """Lets the loop move a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def stepped(self, step: int) -> None:
        """Move the clock."""
        super().stepped(step)
        self._clock.tick(step)


def make_job(folder: Path, size: Size) -> TrainingJob:
    """Lay out a training on random tokens that saves only at its end."""
    tokens = np.random.default_rng(0).integers(1, size.vocabulary_size, NUM_TOKENS)
    document = EncodedDocument(id="all", tokens=tokens)
    write_shards(folder / "tokens", {"train": [document]}, vocabulary_size=size.vocabulary_size, eos_id=0)
    steps = size.warm_up_steps + size.steps + 2
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


def bare(job: TrainingJob, size: Size, clock: Clock) -> None:
    """Do nothing but train."""
    module = make_module(job, size)
    optimizer = build_optimizer(module, job.training, CPU)
    for step, batch in enumerate(random_windows(job, size).split(size.batch_size), start=1):
        module(batch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), job.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick(step)


def slipway(job: TrainingJob, _size: Size, clock: Clock) -> None:
    """Train with Slipway's loop: data from the disk, readings, schedule, watch for bad numbers, call to stop."""
    with tempfile.TemporaryDirectory(dir=job.workspace) as store:
        fresh = job.model_copy(update={"store_url": f"file://{store}"})
        Training(fresh, SingleRank(CPU), Ticking(clock)).run()


def transformers_trainer(job: TrainingJob, size: Size, clock: Clock) -> None:
    """Train with the Trainer of transformers."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Tick(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick(state.global_step)

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


def lightning(job: TrainingJob, size: Size, clock: Clock) -> None:
    """Train with the Trainer of PyTorch Lightning."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class Tick(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            clock.tick(trainer.global_step)

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


Side = Callable[[TrainingJob, Size, Clock], None]
FRAMEWORKS: Mapping[str, Side] = {
    "slipway": slipway,
    "transformers": transformers_trainer,
    "lightning": lightning,
}


def measure(side: Side, job: TrainingJob, size: Size) -> tuple[float, float]:
    """Return wall and CPU seconds per step."""
    clock = Clock(size.warm_up_steps, size.warm_up_steps + size.steps)
    side(job, size, clock)
    return clock.per_step


def main() -> None:
    """Measure both sides in turns, the one first that was second in the round before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, framework = SIZES[arguments.size], FRAMEWORKS[arguments.framework]
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), size)
        for number in range(arguments.rounds):
            sides = (bare, framework) if number % 2 else (framework, bare)
            found = {side: measure(side, job, size) for side in sides}
            rounds.append({"bare": found[bare], "framework": found[framework]})
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
