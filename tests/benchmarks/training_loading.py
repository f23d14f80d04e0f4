"""The loader: a training with it against one whose data is on the device, and against a torch DataLoader."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.formats.shards import TokenShards
from pipelines.training.data import BatchOrder, Share, WindowedTokens
from pipelines.training.job import TrainingJob
from pipelines.training.loader import Loader
from pipelines.training.loop import Training
from pipelines.training.strategies.single import SingleRank
from tests.benchmarks.training_tax import CPU, SIZES, Clock, Size, Ticking, make_job, measure

BATCHES = 2000


class OnDevice:
    """Yields batches that are there already."""

    def __init__(self, loader: Loader, steps: range) -> None:
        self._batches = list(loader.batches(steps))

    def batches(self, _steps: range) -> Generator[torch.Tensor]:
        """Yield them."""
        yield from self._batches


def with_loader(job: TrainingJob, _size: Size, clock: Clock) -> None:
    """Train as always."""
    open_training(job, clock).run()


def on_device(job: TrainingJob, _size: Size, clock: Clock) -> None:
    """Train without a loader."""
    training = open_training(job, clock)
    training._loader = OnDevice(training._loader, range(job.training.max_steps))
    training.run()


def open_training(job: TrainingJob, clock: Clock) -> Training:
    """Return a training from the first step on."""
    store = f"file://{job.workspace / str(time.time_ns())}"
    return Training(job.model_copy(update={"store_url": store}), SingleRank(CPU), Ticking(clock))


def step_time_ratios(folder: Path, size_name: str, rounds: int) -> list[float]:
    """Return the CPU time of a step with the loader over that of one without, round by round."""
    size = SIZES[size_name]
    job = make_job(folder, size)
    ratios = []
    for number in range(rounds):
        sides = (with_loader, on_device) if number % 2 else (on_device, with_loader)
        found = {side: measure(side, job, size)[1] for side in sides}
        ratios.append(found[with_loader] / found[on_device])
    return ratios


class Samples(Dataset[torch.Tensor]):
    """Windows one by one, as a torch data set has them."""

    def __init__(self, windows: WindowedTokens) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return self._windows.num_windows

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return one window."""
        return torch.from_numpy(self._windows.read([number])[0])


def throughput_ratios(folder: Path, size_name: str, rounds: int) -> list[float]:
    """Return the batches per second of the loader over those of a torch DataLoader, round by round."""
    size = SIZES[size_name]
    job = make_job(folder, size)
    windows = WindowedTokens(TokenShards.open(job.tokens).split("train"), size.sequence_length)
    order = BatchOrder(windows.num_windows, size.batch_size, seed=1)
    loader = Loader(windows, order, Share(0, 1), CPU)
    peer = DataLoader(Samples(windows), batch_size=size.batch_size, shuffle=True)
    return [_seconds(_endless(peer)) / _seconds(loader.batches(range(BATCHES))) for _ in range(rounds)]


def _endless(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    while True:
        yield from batches


def _seconds(batches: Iterator[torch.Tensor]) -> float:
    started = time.perf_counter()
    for _ in islice(batches, BATCHES):
        pass
    return time.perf_counter() - started
