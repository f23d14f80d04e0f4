"""The two usual ways to judge a canary, for comparison; both look once a minute.

Peer 1 counts failed checks against fixed limits, as Flagger does. Peer 2 compares the two series of points by
Mann-Whitney, as Kayenta does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench_release.scenarios import Metric, Scenario
from tests.benchmarks.bench_release.traffic import BOUNDS_MS, CANARY, STABLE, Floats, Minute

MAX_FAILED_CHECKS = 5
MAX_ERROR_RATE = 0.01
MAX_P99_RATIO = 1.3

MIN_POINTS = 5
MAX_POINTS = 30
MAX_P_VALUE = 0.01


def error_rates(minute: Minute) -> Floats:
    """Return the minute's error rates, `[runs, 2]`."""
    return minute.bad.sum(axis=1) / np.maximum(minute.exposures.sum(axis=1), 1)


def p99(minute: Minute) -> Floats:
    """Return the minute's 99th percentiles in ms, `[runs, 2]`: the middle of their bucket, which is 10 % wide."""
    upto = minute.buckets.sum(axis=1).cumsum(axis=-1)
    place = (upto < 0.99 * upto[..., -1:]).sum(axis=-1)
    bounds = np.array([*BOUNDS_MS, BOUNDS_MS[-1] * 1.1])
    return bounds[place] / 1.05


class CheckCounter:
    """Peer 1: roll back at the fifth minute, in all, with too many errors or too high a p99."""

    name = "peer 1"

    def __init__(self, scenario: Scenario, runs: int) -> None:
        self._metric = scenario.metric
        self._max_error_rate = max(MAX_ERROR_RATE, 2.0 * scenario.error_rate)
        self._failed = np.zeros(runs, dtype=np.int64)

    def watch(self, minute: Minute) -> NDArray[np.bool_]:
        """Return whether a rollback is due after this minute, `[runs, 1]`."""
        self._failed += self.fails(minute)
        return (self._failed >= MAX_FAILED_CHECKS)[:, None]

    def fails(self, minute: Minute) -> NDArray[np.bool_]:
        """Return whether the minute's check fails, `[runs]`."""
        if self._metric is Metric.ERRORS:
            return error_rates(minute)[:, CANARY] > self._max_error_rate
        points = p99(minute)
        return points[:, CANARY] > MAX_P99_RATIO * points[:, STABLE]


class MannWhitney:
    """Peer 2: roll back when the canary's points are higher, one-sided p < 1 %, from the fifth point on."""

    name = "peer 2"

    def __init__(self, scenario: Scenario, runs: int) -> None:
        self._points = error_rates if scenario.metric is Metric.ERRORS else p99
        self._series: list[Floats] = []

    def watch(self, minute: Minute) -> NDArray[np.bool_]:
        """Return whether a rollback is due after this minute, `[runs, 1]`."""
        from scipy.stats import mannwhitneyu

        self._series = [*self._series, self._points(minute)][-MAX_POINTS:]
        if len(self._series) < MIN_POINTS:
            return np.zeros((len(self._series[0]), 1), dtype=bool)
        series = np.stack(self._series, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = mannwhitneyu(
                series[..., CANARY], series[..., STABLE], alternative="greater", method="asymptotic", axis=1
            )
        return np.asarray(found.pvalue < MAX_P_VALUE)[:, None]
