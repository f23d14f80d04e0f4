"""Checkpoints: what damage does to the newest, and how long a training waits for one, against `torch.save`.

    python -m tests.benchmarks.bench_checkpoints

Bar: 50 of 50 flips of a bit and cuts of a file, at random places of the newest checkpoint's files, are caught, named
and passed over, and what is restored is the checkpoint before, bit by bit. The wait is measured with the same state on
the same disk, in one process on a CPU, where the copy to memory that is used again is all that the training waits for;
its bar of 5 % is of a GPU. The first save of a process also allocates; it is shown apart. Rounds are paired, and which
side begins alternates. Less than two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import sys
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
from tests.benchmarks.figures import Figure, circumstances
from tests.checkpoint_case import CPU, FOLDER, Case, flip_a_byte

LAYERS, WIDTH = 8, 2048
DAMAGES = 50


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


def num_survived(folder: Path, damages: int, chance: random.Random) -> int:
    """Damage the newest checkpoint again and again; return how often the one before was restored, and the file named.

    Every second damage is a cut. In between, without damage, the newest itself must be restored: what is caught is the
    damage.
    """
    store = Store(f"file://{folder / 'damaged'}")
    case = Case(store, SingleRank(CPU))
    case.step()
    case.save(1)
    expected = case.everything()
    survived = 0
    for number in range(damages):
        case.step()
        case.save(2)
        sound = case.checkpointer.resume()
        file = chance.choice([path for path in store.list(FOLDER) if "step-00000002" in path])
        damage(store.local_path(file), chance, is_cut=number % 2 == 1)
        resumed = case.checkpointer.resume()
        is_named = len(resumed.damages) == 1 and Path(file).name in resumed.damages[0]
        is_equal = all(torch.equal(tensor, expected[name]) for name, tensor in case.everything().items())
        survived += sound.step == 2 and resumed.step == 1 and is_named and is_equal
    return survived


def damage(file: Path | None, chance: random.Random, *, is_cut: bool) -> None:
    """Cut a file at a random place, or flip a bit there."""
    assert file is not None
    data = file.read_bytes()
    place = chance.randrange(len(data))
    if is_cut:
        file.write_bytes(data[:place])
    else:
        flip_a_byte(file, place)


def tell_wait(sides: Sides, first: float, rounds: list[tuple[float, float, float]]) -> None:
    """Print how long the training waits, and how long a checkpoint takes."""
    waits = Figure.median([stall / by_torch for stall, by_torch, _ in rounds])
    whole = Figure.median([complete / by_torch for _, by_torch, complete in rounds])
    later = statistics.median(stall for stall, _, _ in rounds)
    print(f"checkpoint of {sides.size_bytes / 1e6:.0f} MB on a CPU, where no bar applies")
    print(f"wait of the training / torch.save: {waits.told()}")
    print(f"checkpoint complete, digests and all / torch.save: {whole.told()}")
    print(f"first wait of a process / a later one: {first / later:.1f}x")


def main() -> int:
    """Run both halves; return 1 when damage was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds (default 9)")
    parser.add_argument("--damages", type=int, default=DAMAGES, help=f"flips and cuts (default {DAMAGES})")
    parser.add_argument("--seed", type=int, default=1, help="of their places (default 1)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # each damage is told three times, as often as it is read
    print(circumstances(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        chance = random.Random(arguments.seed)  # noqa: S311 - no secret
        survived = num_survived(Path(name), arguments.damages, chance)
        is_held = survived == arguments.damages
        told = f"{survived} of {arguments.damages}: {'held' if is_held else 'missed'}"
        print(f"flips and cuts of the newest checkpoint, caught and passed over: {told}", flush=True)
        sides = Sides(Path(name))
        first, _, _ = run_pair(sides, 0)
        tell_wait(sides, first, [run_pair(sides, number) for number in range(arguments.rounds)])
    print(circumstances())
    return int(not is_held)


if __name__ == "__main__":
    sys.exit(main())
