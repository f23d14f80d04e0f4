"""What benchmarks say: a median with its interval, and whether a bar is held."""

from __future__ import annotations

import importlib.metadata
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
SHARES = (0.025, 0.975)
"""Of the resampled values, below the ends of an interval."""


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    count: int
    """Measurements behind it."""

    @classmethod
    def median(cls, values: Sequence[float]) -> Figure:
        """Return the median of values, of paired ratios say."""
        return cls(statistics.median(values), *_interval(_medians(values)), len(values))

    @classmethod
    def ratio(cls, values: Sequence[float], others: Sequence[float]) -> Figure:
        """Return the ratio of the medians of two samples that are no pairs."""
        resampled = _medians(values) / _medians(others, seed=1)
        return cls(statistics.median(values) / statistics.median(others), *_interval(resampled), len(values))

    def told(self, unit: str = "x", digits: int = 3) -> str:
        """Return this figure in words."""
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{self.value:.{digits}f}{unit} (95 % CI {low} to {high}, n = {self.count})"

    def verdict(self, bar: float, *, at_least: bool = False) -> str:
        """Return whether a bar is held; with a question mark where the interval reaches across it."""
        is_held = self.value >= bar if at_least else self.value <= bar
        return ("held" if is_held else "missed") + ("?" if self.low < bar < self.high else "")


def circumstances() -> str:
    """Return versions, cores and load."""
    names = ("torch", "numpy", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def _medians(values: Sequence[float], seed: int = 0) -> npt.NDArray[np.float64]:
    rows = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    medians: npt.NDArray[np.float64] = np.median(rows, axis=1)
    return medians


def _interval(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(resampled, SHARES)
    return float(low), float(high)
