"""Slipway's rule, for many runs at once; every number in it comes from `pipelines.release.sequential`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.release.sequential import RATIOS, combined, design_effects, mixture, quantile_buckets, worse_increment
from tests.benchmarks.bench_release.scenarios import Metric, Scenario
from tests.benchmarks.bench_release.traffic import BOUNDS_MS, CANARY, STABLE, Floats, Ints, Minute

ALPHA = 0.01
QUANTILES = (0.5, 0.9, 0.95, 0.99)
WEIGHT = {Metric.ERRORS: 0.4, Metric.LATENCY: 0.3}
"""What each family of metrics may use of alpha; the others see nothing here and stay at E = 1."""

HISTORY_LOOKS = 180
"""Latest looks of stable from which the design effect is estimated."""

LOOKS_BETWEEN_ESTIMATES = 6


def slower(buckets: Ints, thresholds: Ints) -> Ints:
    """Return how many latencies are at the thresholds `[runs, Q]` or above: `[runs, looks, arms, Q]`."""
    tail = np.flip(np.flip(buckets, -1).cumsum(-1), -1)
    tail = np.concatenate([tail, np.zeros((*tail.shape[:-1], 1), dtype=tail.dtype)], axis=-1)
    places = np.broadcast_to(thresholds[:, None, None, :], (*tail.shape[:-1], thresholds.shape[-1]))
    return np.take_along_axis(tail, places, axis=-1)


class SlipwayRule:
    """The e-process of one metric in one stratum, with the latency thresholds and design effects of past looks."""

    name = "this rule"

    def __init__(self, scenario: Scenario, runs: int) -> None:
        self._scenario = scenario
        is_latency = scenario.metric is Metric.LATENCY
        self._log_e = np.zeros((runs, len(QUANTILES) if is_latency else 1, len(RATIOS)))
        self._thresholds: Ints = np.zeros((runs, len(QUANTILES)), dtype=np.int64)
        self._stable_n: list[Ints] = []
        self._stable_bad: list[Ints] = []
        self._design = np.ones((runs, len(QUANTILES)))
        self._learnt_looks = 0

    def prepare(self, minutes: Sequence[Minute]) -> None:
        """Learn from minutes before the rollout: thresholds from the first on, design effects from the second on."""
        if self._scenario.metric is Metric.LATENCY:
            self._set_thresholds(minutes[0])
            for minute in minutes[1:]:
                self._learn(minute, slower(minute.buckets, self._thresholds))

    def watch(self, minute: Minute) -> NDArray[np.bool_]:
        """Return at which looks of this minute a rollback is due, `[runs, looks]`."""
        is_latency = self._scenario.metric is Metric.LATENCY
        bad = slower(minute.buckets, self._thresholds) if is_latency else minute.bad[..., None]
        n = minute.exposures[..., None]
        increments = worse_increment(
            n[:, :, CANARY],
            bad[:, :, CANARY],
            n[:, :, STABLE],
            bad[:, :, STABLE],
            tau=self._scenario.tau,
            design_effect=self._design[:, None, :] if is_latency else 1.0,
        )
        path = self._log_e[:, None] + increments.cumsum(axis=1)
        self._log_e = path[:, -1]
        if is_latency:
            self._learn(minute, bad)
        return self._log_e_star(path) >= -math.log(ALPHA)

    def _log_e_star(self, path: Floats) -> Floats:
        """Return log E* of all families, `[runs, looks]`, from this one's `[runs, looks, metrics, alternatives]`."""
        metrics = mixture(path)
        weight = WEIGHT[self._scenario.metric]
        num = metrics.shape[-1]
        others = np.zeros((*metrics.shape[:-1], 1))
        return combined(np.concatenate([metrics, others], axis=-1), [weight / num] * num + [1.0 - weight])

    def _learn(self, minute: Minute, bad: Ints) -> None:
        """Take what a minute showed of stable, `bad` `[runs, looks, arms, Q]`, for the looks to come."""
        looks = minute.exposures.shape[1]
        keep = HISTORY_LOOKS // looks
        self._stable_n = [*self._stable_n, minute.exposures[:, :, STABLE, None]][-keep:]
        self._stable_bad = [*self._stable_bad, bad[:, :, STABLE]][-keep:]
        self._set_thresholds(minute)
        self._learnt_looks += looks
        if self._scenario.design_effect and self._learnt_looks % LOOKS_BETWEEN_ESTIMATES == 0:
            n, stable_bad = (np.concatenate(series, axis=1) for series in (self._stable_n, self._stable_bad))
            self._design = design_effects(stable_bad.swapaxes(1, 2), n.swapaxes(1, 2))

    def _set_thresholds(self, minute: Minute) -> None:
        window = minute.buckets[:, :, STABLE].sum(axis=1)
        self._thresholds = quantile_buckets(window, QUANTILES, self._scenario.latency_margin, BOUNDS_MS)
