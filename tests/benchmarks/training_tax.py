"""One training framework and a bare loop in one process, in turns: what the framework adds to each step.

    python -m tests.benchmarks.training_tax slipway [--over tuned] [--rounds 10]

After each of the framework's steps the bare loop takes one of its own, so that whatever else the machine does slows
both alike. Both have the same model, loss, fused AdamW, clipping and cosine schedule, and one thread; only what is
around them differs. The bare loop's batches lie in memory; a framework brings its own loader, and what its threads
compute meanwhile counts as its own. The framework `bare` is a second bare loop: what it adds is the error of the
measurement. Prints one JSON object: for each size, a list of rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
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

from pipelines.training.job import TrainingJob
from pipelines.training.loop import Training
from pipelines.training.optimizer import build_optimizer
from pipelines.training.strategies.single import SingleRank
from pipelines.training.supervision.heartbeat import LiveState, beating
from tests.benchmarks.training_bare import (
    BARE_LOOPS,
    CPU,
    SIZES,
    Size,
    bare_steps,
    make_job,
    make_module,
    random_windows,
)


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


def bare(job: TrainingJob, size: Size, turns: Turns) -> None:
    """Train with nothing around it."""
    for step, _ in enumerate(bare_steps(job, size), start=1):
        turns.stepped(step)


def slipway(job: TrainingJob, _size: Size, turns: Turns) -> None:
    """Train as a rank does: data from the disk, readings, watch for bad numbers, call to stop, signs of life."""
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"})
    live = Ticking(turns.stepped)
    with beating(live, job.heartbeats_folder):
        Training(job, SingleRank(CPU), live).run()


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


def measure(size: Size, framework: Framework, over: str, rounds: int) -> list[dict[str, list[float]]]:
    """Return wall and CPU seconds per step of both sides, round by round."""
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), size, rounds)
        turns = Turns(bare_steps(job, size, over), size.warm_up_steps)
        framework(job, size, turns)
        return turns.rounds(size.round_steps)


def main() -> None:
    """Measure one framework with a model of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--over", choices=BARE_LOOPS, default="plain", help="bare loop (default plain)")
    parser.add_argument("--rounds", type=int, default=10, help="of each size (default 10)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = functools.partial(
        measure, framework=FRAMEWORKS[arguments.framework], over=arguments.over, rounds=arguments.rounds
    )
    print(json.dumps({name: run(size) for name, size in SIZES.items()}))


if __name__ == "__main__":
    main()
