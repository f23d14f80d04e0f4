"""Which tokens each rank learns from at each step: a pure function, so that a resumed training goes on exactly."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.errors import BadInput
from pipelines.formats.shards import TokenSplit


@dataclass(frozen=True)
class BatchOrder:
    """The order in which windows are learnt: each once per epoch, shuffled anew for every epoch.

    The windows of a step do not depend on how many ranks share them.
    """

    num_windows: int
    batch_size: int
    """Windows per step over all ranks and micro-batches."""

    seed: int

    def windows(self, step: int, *, rank: int, world_size: int, accumulation_steps: int) -> npt.NDArray[np.int64]:
        """Return the numbers of one rank's windows at a step, shape (accumulation_steps, windows per micro-batch)."""
        return self._batch(step).reshape(accumulation_steps, world_size, -1)[:, rank]

    def _batch(self, step: int) -> npt.NDArray[np.int64]:
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while position < end:
            epoch, offset = divmod(position, self.num_windows)
            parts.append(_shuffled(self.num_windows, self.seed, epoch)[offset : offset + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)


class WindowedTokens:
    """A split cut into windows of equal length; the last token of one is the first of the next."""

    def __init__(self, split: TokenSplit, sequence_length: int) -> None:
        """Cut a split.

        Raises:
            BadInput: when the split is shorter than one window.
        """
        self._split = split
        self._length = sequence_length
        self.num_windows = (len(split) - 1) // sequence_length
        if self.num_windows < 1:
            raise BadInput(
                f"training.sequence_length {sequence_length} needs at least {sequence_length + 1} tokens, split "
                f"{split.name} holds {len(split)}; give more data or a shorter sequence_length"
            )

    def read(self, windows: Iterable[int]) -> npt.NDArray[np.int64]:
        """Return windows by number, shape (n, sequence_length + 1): inputs and, shifted by one, targets."""
        starts = (int(window) * self._length for window in windows)
        rows = [self._split.slice(start, start + self._length + 1) for start in starts]
        return np.stack(rows).astype(np.int64)


@functools.lru_cache(maxsize=2)
def _shuffled(num_windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_windows)
