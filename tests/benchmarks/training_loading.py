"""The loader: steps with it against steps whose data is on the device, batches against those of a torch DataLoader."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.formats.shards import EncodedDocument, TokenShards, TokenSplit, write_shards
from pipelines.training.data import BatchOrder, Share, WindowedTokens
from pipelines.training.loader import Loader
from pipelines.training.loop import Training
from pipelines.training.strategies.single import SingleRank
from tests.benchmarks.training_bare import CPU, SIZES, Size, make_job
from tests.benchmarks.training_tax import Seconds, Ticking

BATCHES = 10_000
NUM_TOKENS = 10_000_000
"""Of the corpus whose batches are counted; more than caches near a core hold, and in several shards."""

NUM_ON_DEVICE = 16
"""Batches that lie on the device; which of them comes next makes no difference to a step's time."""


class Mixed:
    """Yields pairs of a batch of the loader and one that was there already, in random order."""

    def __init__(self, loader: Loader, are_swapped: Sequence[bool]) -> None:
        self._loader, self._are_swapped = loader, are_swapped
        self._there = [(windows.clone(),) for (windows,) in loader.batches(range(NUM_ON_DEVICE))]

    def batches(self, _steps: range) -> Generator[tuple[torch.Tensor, ...]]:
        """Yield all pairs."""
        fresh, there = self._loader.batches(range(len(self._are_swapped))), cycle(self._there)
        for is_swapped in self._are_swapped:
            for side in (there, fresh) if is_swapped else (fresh, there):
                yield next(side)


class Steps:
    """Wall and CPU seconds of each step."""

    def __init__(self) -> None:
        self._before = Seconds.now()
        self.seconds: list[tuple[float, float, float]] = []
        """Wall, CPU of the loop's thread, CPU of the others."""

    def stepped(self, _step: int) -> None:
        """Say that a step is done."""
        took = (now := Seconds.now()).since(self._before)
        self.seconds.append((took.wall, took.thread, took.process - took.thread))
        self._before = now


def step_ratios(size_name: str, rounds: int) -> list[tuple[float, float]]:
    """Return, round by round, the wall and the CPU time of a step with the loader over those of one without."""
    torch.set_num_threads(1)  # other threads are then the loader's
    size, steps = SIZES[size_name], Steps()
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), size, rounds)
        are_swapped = np.random.default_rng(0).random(job.training.max_steps // 2) < 0.5
        training = Training(job, SingleRank(CPU), Ticking(steps.stepped))
        training._loader = Mixed(training._loader, are_swapped.tolist())
        training.run()
    pairs = np.array(steps.seconds).reshape(-1, 2, 3)
    pairs[are_swapped] = pairs[are_swapped, ::-1]
    measured = pairs[size.warm_up_steps // 2 :][: rounds * size.round_steps // 2]
    return _ratios(measured.reshape(rounds, -1, 2, 3).sum(axis=1))


def _ratios(seconds: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return wall and CPU ratios from seconds of shape (rounds, side, wall / CPU / CPU elsewhere)."""
    (wall, cpu, elsewhere), (wall_without, cpu_without, elsewhere_too) = seconds.transpose(1, 2, 0)
    ratios = np.stack([wall / wall_without, (cpu + elsewhere + elsewhere_too) / cpu_without], axis=1)
    return [(each[0], each[1]) for each in ratios.tolist()]


class Samples(Dataset[torch.Tensor]):
    """Windows one by one, straight from the memory-mapped tokens, as a torch data set has them."""

    def __init__(self, split: TokenSplit, sequence_length: int) -> None:
        self._split, self._length = split, sequence_length

    def __len__(self) -> int:
        return (len(self._split) - 1) // self._length

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return one window."""
        start = number * self._length
        return torch.from_numpy(self._split.slice(start, start + self._length + 1).astype(np.int64))


def throughput_ratios(rounds: int) -> list[tuple[float, float]]:
    """Return, round by round, the wall and the CPU time of a torch DataLoader's batches over those of the loader's."""
    size = SIZES["large"]
    with tempfile.TemporaryDirectory() as name:
        loader, peer = _loaders(Path(name), size)
        pairs = [(_took(_endless(peer)), _took(loader.batches(range(BATCHES)))) for _ in range(rounds)]
    return [(its.wall / own.wall, its.process / own.process) for its, own in pairs]


def _loaders(folder: Path, size: Size) -> tuple[Loader, DataLoader[torch.Tensor]]:
    tokens = np.random.default_rng(0).integers(1, size.vocabulary_size, NUM_TOKENS)
    document = EncodedDocument(id="all", tokens=tokens)
    write_shards(folder, {"train": [document]}, vocabulary_size=size.vocabulary_size, eos_id=0)
    split = TokenShards.open(folder).split("train")
    windows = WindowedTokens(split, size.sequence_length)
    order = BatchOrder(windows.num_windows, size.batch_size, seed=1)
    peer = DataLoader(Samples(split, size.sequence_length), batch_size=size.batch_size, shuffle=True)
    return Loader(windows, order, Share(0, 1), CPU), peer


def _endless(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    while True:
        yield from batches


def _took(batches: Iterator[object]) -> Seconds:
    began = Seconds.now()
    for _ in islice(batches, BATCHES):
        pass
    return Seconds.now().since(began)
