"""Which tokens each rank learns from at each step: a pure function, so that a resumed training goes on exactly."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.errors import BadInput
from pipelines.formats.shards import TokenSplit
from pipelines.training.shuffle import shuffled

NO_TOKEN = -1
"""In a window: beyond the end of the data."""

SPAN = 1 << 12
"""Windows of an epoch whose order is computed at once."""


@dataclass(frozen=True)
class Share:
    """One rank's part of each batch."""

    rank: int
    world_size: int
    """Shares of each batch."""

    accumulation_steps: int = 1
    """Micro-batches per step."""


@dataclass(frozen=True)
class BatchOrder:
    """The order in which windows are learnt: each once per epoch, shuffled anew for every epoch.

    The windows of a step do not depend on how many ranks share them. However many windows there are, the order takes no
    more memory.
    """

    num_windows: int
    batch_size: int
    """Windows per step over all ranks and micro-batches."""

    seed: int

    def windows(self, steps: range, share: Share) -> npt.NDArray[np.int64]:
        """Return the numbers of one rank's windows, shape (len(steps), accumulation_steps, windows per micro-batch)."""
        batches = self._windows(steps.start * self.batch_size, steps.stop * self.batch_size)
        return batches.reshape(len(steps), share.accumulation_steps, share.world_size, -1)[:, :, share.rank]

    def _windows(self, position: int, end: int) -> npt.NDArray[np.int64]:
        """Return the windows from one position of the endless sequence of epochs to another."""
        parts = []
        while position < end:
            epoch, place = divmod(position, self.num_windows)
            span, offset = divmod(place, SPAN)
            parts.append(_span(span, self.num_windows, self.seed, epoch)[offset : offset + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)


class WindowedTokens:
    """A split cut into windows of equal length; the last token of one is the first of the next.

    Every token but the first is learnt in exactly one window; the last window is filled up with NO_TOKEN.
    """

    def __init__(self, split: TokenSplit, sequence_length: int) -> None:
        """Cut a split.

        Raises:
            BadInput: when the split is shorter than one window.
        """
        if len(split) <= sequence_length:
            raise BadInput(
                f"training.sequence_length {sequence_length} needs at least {sequence_length + 1} tokens, split "
                f"{split.name} holds {len(split)}; give more data or a shorter sequence_length"
            )
        self._split = split
        self.sequence_length = sequence_length
        self.num_windows = -(-(len(split) - 1) // sequence_length)

    def read(self, windows: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> None:
        """Read windows by number, shape (n,), into rows: inputs and, moved by one, targets.

        Args:
            windows: numbers from 0 to num_windows (exclusive).
            rows: where to write, shape (n, sequence_length + 1).
        """
        starts = windows * self.sequence_length
        last = len(self._split) - self.sequence_length - 1
        self._split.fill(rows, np.minimum(starts, last))
        for row in np.flatnonzero(starts > last).tolist():  # the data ends within this window
            num_missing = int(starts[row]) - last
            rows[row] = np.append(rows[row, num_missing:], [NO_TOKEN] * num_missing)


@functools.lru_cache(maxsize=2)
def _span(number: int, num_windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return one span of an epoch's order."""
    places = np.arange(number * SPAN, min((number + 1) * SPAN, num_windows))
    return shuffled(places, num_windows, seed, epoch)
