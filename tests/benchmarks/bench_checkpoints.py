"""How long a training waits for a checkpoint, against `torch.save` of the same state to the same disk, in one run.

    python -m tests.benchmarks.bench_checkpoints

One process on a CPU, where the copy to memory that is used again is all that the training waits for. The first save
of a process also allocates; it is shown apart. Rounds are paired, and which side begins alternates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pipelines.store import Store
from pipelines.training.checkpoints.checkpointer import Checkpointer
from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.checkpoints.state import TrainingState
from pipelines.training.strategies.single import SingleRank
from tests.benchmarks.bench_training import describe

LAYERS, WIDTH = 8, 2048
CPU = torch.device("cpu")


class Sides:
    """One model and its optimizer, saved in both ways."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.pt"
        self._model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), fused=True)
        self._model(torch.randn(1, WIDTH)).sum().backward()
        self._optimizer.step()
        strategy = SingleRank(CPU)
        state = TrainingState(self._model, self._optimizer, strategy)
        self.checkpointer = Checkpointer(
            CheckpointFolder(Store(f"file://{folder}/store"), "checkpoints/bench"),
            state,
            strategy,
            kind="ddp",
            model={},
            keep=1,
        )
        self._step = 0

    @property
    def size_bytes(self) -> int:
        """Size of weights and moments."""
        return 3 * sum(parameter.nbytes for parameter in self._model.parameters())

    def save(self) -> None:
        """Begin a checkpoint, as the loop does."""
        self._step += 1
        self.checkpointer.save(self._step, progress={}, metrics=b"")

    def torch_save(self) -> None:
        """Write the same state as most training loops do, to the disk and not only to its cache."""
        with self._file.open("wb") as file:
            torch.save({"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())


def seconds(act: Callable[[], None]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def run_pair(sides: Sides, number: int) -> tuple[float, float, float]:
    """Return how long the training waits for a checkpoint and for `torch.save`, and until the checkpoint is there."""
    saved_by_torch = seconds(sides.torch_save) if number % 2 else 0.0
    stall = seconds(sides.save)
    rest = seconds(sides.checkpointer.wait)
    return stall, saved_by_torch or seconds(sides.torch_save), stall + rest


def main() -> None:
    """Run paired rounds and print the ratio with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds (default 9)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sides = Sides(Path(name))
        first, _, _ = run_pair(sides, 0)
        rounds = [run_pair(sides, number) for number in range(arguments.rounds)]
    print(f"checkpoint of {sides.size_bytes / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(describe("wait for a checkpoint / torch.save", [stall / by_torch for stall, by_torch, _ in rounds]))
    print(describe("checkpoint complete / torch.save", [whole / by_torch for _, by_torch, whole in rounds]))
    print(f"first wait of a process / a later one: {first / statistics.median(stall for stall, _, _ in rounds):.1f}x")


if __name__ == "__main__":
    main()
