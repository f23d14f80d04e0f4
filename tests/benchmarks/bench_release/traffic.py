"""Traffic of one scenario, a minute at a time, for many runs at once."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.release.ports import LATENCY_BOUNDS_MS
from tests.benchmarks.bench_release.scenarios import Metric, Scenario, Unit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CANARY, STABLE = 0, 1
MEDIAN_MS = 50.0
SIGMA = 0.8
REQUESTS_PER_SESSION = 20
SESSION_LOOKS = 6
"""Looks over which a session's requests are spread."""

BOUNDS_MS = tuple(bound for bound in LATENCY_BOUNDS_MS if 2.0 <= bound <= 3_000.0)
"""The router's latency buckets that such traffic reaches."""


@dataclass(frozen=True)
class Minute:
    """What one minute brought, look by look; the axis of arms is canary, stable."""

    exposures: Ints
    """`[runs, looks, 2]`."""

    bad: Ints
    """Errors, `[runs, looks, 2]`; all 0 where latency is the metric."""

    buckets: Ints
    """Latency histograms, `[runs, looks, 2, buckets]`; without buckets where errors are the metric."""


def latency_shares(factor: NDArray[np.float64]) -> Floats:
    """Return the share of each bucket, `[..., B]`, for lognormal latencies that are a factor `[...]` slower."""
    from scipy.special import ndtr

    edges = np.log(np.asarray(BOUNDS_MS) / MEDIAN_MS)
    below = ndtr((edges - np.log(factor)[..., None]) / SIGMA)
    ends = np.zeros((*below.shape[:-1], 1))
    return np.diff(below, axis=-1, prepend=ends, append=ends + 1.0)


class Traffic:
    """A source of minutes; minutes before 0 are alike on both arms whatever the scenario says of the canary."""

    def __init__(self, scenario: Scenario, runs: int, seed: int) -> None:
        self._scenario = scenario
        self._runs = runs
        self._rng = np.random.default_rng(seed)
        self._slow = np.zeros((runs, 2), dtype=bool)
        self._failing: deque[Ints] = deque(maxlen=SESSION_LOOKS)

    def minute(self, index: int) -> Minute:
        """Return the next minute."""
        looks, scenario = self._scenario.looks_per_minute, self._scenario
        exposures = self._rng.poisson(self._arrivals(index), (self._runs, looks, 2))
        if scenario.metric is Metric.LATENCY:
            return Minute(exposures, np.zeros_like(exposures), self._latencies(index, exposures))
        if scenario.clustered and scenario.unit is Unit.REQUEST:
            bad = np.stack([self._errors_of_sessions() for _ in range(looks)], axis=1)
            return Minute(exposures, np.minimum(bad, exposures), np.zeros((self._runs, looks, 2, 0), dtype=np.int64))
        bad = self._rng.binomial(exposures, self._error_rates(index))
        return Minute(exposures, bad, np.zeros((self._runs, looks, 2, 0), dtype=np.int64))

    def _arrivals(self, index: int) -> Floats:
        """Return expected exposures per look, `[2]`."""
        scenario = self._scenario
        rate = scenario.requests_per_second * (1.0 + scenario.diurnal * math.sin(2.0 * math.pi * index / (24 * 60)))
        units = rate / REQUESTS_PER_SESSION if scenario.unit is Unit.SESSION else rate
        return units * scenario.look_seconds * np.array([scenario.weight, 1.0 - scenario.weight])

    def _has_incident(self, index: int) -> bool:
        incident = self._scenario.incident
        return incident is not None and incident.start_minute <= index < incident.end_minute

    def _error_rates(self, index: int) -> Floats:
        scenario = self._scenario
        if scenario.incident is not None and self._has_incident(index):
            return np.full(2, scenario.incident.error_rate)
        worse = scenario.worse if index >= 0 else 1.0
        return np.array([scenario.error_rate * worse, scenario.error_rate])

    def _errors_of_sessions(self) -> Ints:
        """Return errors of one look, `[runs, 2]`: all requests of the failing sessions, spread over some looks."""
        sessions = self._rng.poisson(self._arrivals(0) / REQUESTS_PER_SESSION, (self._runs, 2))
        self._failing.append(self._rng.binomial(sessions, self._scenario.error_rate))
        return self._rng.poisson(sum(self._failing) * (REQUESTS_PER_SESSION / SESSION_LOOKS))

    def _latencies(self, index: int, exposures: Ints) -> Ints:
        scenario = self._scenario
        factor = np.array([scenario.worse if index >= 0 else 1.0, 1.0])
        if scenario.incident is not None and self._has_incident(index):
            factor = factor * scenario.incident.latency_factor
        shares = latency_shares(factor)
        if scenario.bursts is not None:
            slow = self._share_in_bursts()[..., None]
            shares = (1.0 - slow) * shares + slow * latency_shares(factor * scenario.bursts.factor)
        return self._rng.multinomial(exposures, np.broadcast_to(shares, (*exposures.shape, shares.shape[-1])))

    def _share_in_bursts(self) -> Floats:
        """Return the share of each look that each arm spent in a burst, `[runs, looks, 2]`."""
        bursts = self._scenario.bursts
        assert bursts is not None
        seconds = []
        for _ in range(60):
            chance = np.where(self._slow, 1.0 - 1.0 / bursts.last_seconds, 1.0 / bursts.every_seconds)
            self._slow = self._rng.random(self._slow.shape) < chance
            seconds.append(self._slow)
        by_look = np.stack(seconds).reshape(self._scenario.looks_per_minute, -1, self._runs, 2)
        return by_look.mean(axis=1).swapaxes(0, 1)
