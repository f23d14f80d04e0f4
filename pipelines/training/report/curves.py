"""The curves of a training: what was measured, by step, with the interruptions marked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipelines.pages import BASELINE, CANDIDATE, CHAMPION, draw_svg
from pipelines.training.metrics import Reading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_POINTS = 600
"""Most points of a curve: a screen has no more columns. Of more readings, means and extremes are drawn."""

_MIN_GAP_SECONDS = 1.0
"""Shorter pauses between two readings are not told: clocks are set, and files written."""


@dataclass(frozen=True)
class Interruption:
    """A time without training between two readings: a restart, a retry, or work that was lost and done again."""

    after_step: int
    seconds: float


@dataclass(frozen=True)
class Curve:
    """One measure in at most `NUM_POINTS` points."""

    steps: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def interruptions(readings: Sequence[Reading]) -> list[Interruption]:
    """Return where the clock on the wall went on and the training did not."""
    found = []
    for before, after in itertools.pairwise(readings):
        gap = (after.at - before.at) - (after.seconds - before.seconds)
        if gap > _MIN_GAP_SECONDS:
            found.append(Interruption(before.step, gap))
    return found


def curve(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """Return a curve of at most `NUM_POINTS` points: of neighbours the mean, the lowest and the highest."""
    parts = np.array_split(np.asarray(values, float), min(len(values), NUM_POINTS))
    places = np.array_split(np.asarray(steps, float), min(len(values), NUM_POINTS))
    return Curve(
        steps=np.array([place.mean() for place in places]),
        mean=np.array([part.mean() for part in parts]),
        low=np.array([part.min() for part in parts]),
        high=np.array([part.max() for part in parts]),
    )


def draw_curves(readings: Sequence[Reading], model_rate: float) -> list[tuple[str, str]]:
    """Return titles and drawings.

    Args:
        readings: at least one.
        model_rate: tokens per second at which the devices would do nothing but matrix products.
    """
    breaks = [pause.after_step for pause in interruptions(readings)]
    steps = [reading.step for reading in readings]

    def line(values: Sequence[float], label: str, colour: str = CANDIDATE, *, from_zero: bool = False) -> str:
        found = curve(steps, values)

        def draw(axes: Axes) -> None:
            axes.fill_between(found.steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(found.steps, found.mean, color=colour, linewidth=1.4)
            for step in breaks:
                axes.axvline(step, color=BASELINE, linewidth=1, linestyle="--")
            axes.grid(axis="y", alpha=0.3)
            axes.set_xlabel("step")
            axes.set_ylabel(label)
            if from_zero:
                axes.set_ylim(bottom=0)

        return draw_svg(draw, height=2.6)

    speed = [reading.tokens_per_second for reading in readings]
    return [
        ("Loss", line([reading.loss for reading in readings], "nats per token")),
        ("Gradient norm", line([reading.gradient_norm for reading in readings], "norm before clipping")),
        ("Learning rate", line([reading.learning_rate for reading in readings], "", CHAMPION, from_zero=True)),
        ("Throughput", line(speed, "tokens per second", from_zero=True)),
        ("MFU", line([100 * value / model_rate for value in speed], "% of the matmul rate", from_zero=True)),
        ("Memory", line([reading.memory_bytes / 2**30 for reading in readings], "GiB of rank 0", from_zero=True)),
    ]
