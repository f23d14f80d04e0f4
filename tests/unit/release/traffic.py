"""Traffic without requests: what the router and the services would have counted, drawn from a seed.

`Steady` gives every look the same clean counts; `Drawn` follows the route in force while a fake clock moves on.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import FIRST_TOKEN_SECONDS, PER_TOKEN_SECONDS, Histogram, ServiceCounters
from pipelines.release.ports import FULL_BP, LATENCY_BOUNDS_MS, Arm, Counts, Observed, Route, Tally

PER_LOOK = 400
"""Pinned requests of each arm between two looks at steady traffic."""

SIGMA = 0.5
"""Of the lognormal latencies."""

Tallies = dict[tuple[Arm, Traffic], Tally]


class Source(Protocol):
    """Where the fake router and the fake fleet get their counts from."""

    def counts(self, service: str, since: str | None) -> Counts: ...
    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]: ...
    def flow(self, seconds: float, routes: Mapping[str, Observed], is_ready: Callable[[str], bool]) -> None: ...


@dataclass
class Steady:
    """Clean pinned requests between any two looks, and what a test adds to them."""

    tallies: Tallies = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)

    def counts(self, service: str, since: str | None) -> Counts:
        if since is None:
            return Counts(cursor="0")
        pinned = {(arm, Traffic.PINNED): Tally(PER_LOOK) for arm in Arm}
        return Counts(cursor=str(int(since) + 1), tallies={**pinned, **self.tallies})

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        self.answered[copy] = self.answered.get(copy, 0) + PER_LOOK
        return {Traffic.PINNED: counters(self.answered[copy])}

    def flow(self, seconds: float, routes: Mapping[str, Observed], is_ready: Callable[[str], bool]) -> None:
        """Time brings nothing here; looks do."""


@dataclass(frozen=True)
class Behaviour:
    """How a version answers."""

    error_rate: float = 0.001
    invalid_rate: float = 0.0
    slowness: float = 1.0
    """How many times slower than the others."""

    slow_from_bp: int = 0
    """Weight from which it is slow: some fail only under load."""

    uncounted_rate: float = 0.0
    """Share of requests that the copy answers and does not count: they generate nothing, or it loses counts."""

    left_rate: float = 0.0
    """Share of users who leave before the headers: no exposures, but the copy counts them."""


GOOD = Behaviour()


@dataclass
class Meter:
    """What one copy counted in one kind of traffic since it began."""

    requests: int = 0
    failed: int = 0
    answered: int = 0
    invalid: int = 0
    first_token: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FIRST_TOKEN_SECONDS) + 1, np.int64))
    per_token: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PER_TOKEN_SECONDS) + 1, np.int64))

    def read(self) -> ServiceCounters:
        first_token = Histogram(FIRST_TOKEN_SECONDS, tuple(self.first_token.tolist()))
        per_token = Histogram(PER_TOKEN_SECONDS, tuple(self.per_token.tolist()))
        return ServiceCounters(self.requests, self.failed, self.answered, self.invalid, first_token, per_token)


class Drawn:
    """Users, their mirrored copies and pinned requests, as many as the route sends to each arm."""

    def __init__(self, seed: int, *, users_per_second: float = 20.0, pinned_per_second: float = 2.0) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        """By copy; the others are good."""

        self.users_per_second = users_per_second
        self.pinned_per_second = pinned_per_second
        self.lag = 0
        """Flows by which the router's counts are behind the copies'."""

        self._rng = np.random.default_rng(seed)
        self._passed: dict[str, list[Tallies]] = defaultdict(list)
        self._meters: dict[tuple[str, Traffic], Meter] = defaultdict(Meter)

    def counts(self, service: str, since: str | None) -> Counts:
        passed = self._passed[service]
        end = max(0, len(passed) - self.lag)
        return Counts(str(end), _summed(passed[int(since) : end]) if since is not None else {})

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        return {traffic: self._meters[copy, traffic].read() for traffic in Traffic}

    def restart(self, copy: str) -> None:
        """Begin a copy's counters anew, as its process does."""
        for traffic in Traffic:
            self._meters[copy, traffic] = Meter()

    def flow(self, seconds: float, routes: Mapping[str, Observed], is_ready: Callable[[str], bool]) -> None:
        """Let time pass: what the routes in force bring to each copy."""
        for service, held in routes.items():
            self._passed[service].append(self._passing(held.route, seconds, is_ready))

    def _passing(self, route: Route, seconds: float, is_ready: Callable[[str], bool]) -> Tallies:
        users = int(self._rng.poisson(self.users_per_second * seconds))
        pinned = round(self.pinned_per_second * seconds) if route.stable and route.canary else 0
        of_canary = int(self._rng.binomial(users, route.split.canary_bp / FULL_BP))
        exposures = {
            (Arm.STABLE, Traffic.USER): users - of_canary,
            (Arm.CANARY, Traffic.USER): of_canary,
            (Arm.CANARY, Traffic.SHADOW): int(self._rng.binomial(users, route.split.mirror_bp / FULL_BP)),
            (Arm.STABLE, Traffic.PINNED): pinned,
            (Arm.CANARY, Traffic.PINNED): pinned,
        }
        targets = {Arm.STABLE: route.stable, Arm.CANARY: route.canary}
        found = {}
        for (arm, traffic), n in exposures.items():
            target = targets[arm]
            if n and target is not None:
                is_up = is_ready(target.copy)
                found[arm, traffic] = self._served(target.copy, traffic, n, route) if is_up else Tally(n, n)
        if route.stable is not None and (failed := found.get((Arm.CANARY, Traffic.USER), Tally()).bad):
            self._meters[route.stable.copy, Traffic.USER].requests += failed  # tried again there
        return found

    def _served(self, copy: str, traffic: Traffic, n: int, route: Route) -> Tally:
        """Return what the router saw of a copy that is up; the copy counts its own."""
        behaviour, meter = self.behaviours.get(copy, GOOD), self._meters[copy, traffic]
        slowness = behaviour.slowness if route.split.canary_bp >= behaviour.slow_from_bp else 1.0
        left = int(self._rng.binomial(n, behaviour.left_rate)) if behaviour.left_rate else 0
        uncounted = int(self._rng.binomial(n - left, behaviour.uncounted_rate)) if behaviour.uncounted_rate else 0
        failed = int(self._rng.binomial(n - left - uncounted, behaviour.error_rate))
        answered = n - left - uncounted - failed
        meter.requests += n - uncounted
        meter.failed += failed
        meter.answered += answered
        meter.invalid += int(self._rng.binomial(answered, behaviour.invalid_rate))
        meter.first_token += self._rng.multinomial(answered, _shares(FIRST_TOKEN_SECONDS, 0.05 * slowness))
        meter.per_token += self._rng.multinomial(answered, _shares(PER_TOKEN_SECONDS, 0.01 * slowness))
        headers = self._rng.multinomial(n, _shares(LATENCY_BOUNDS_MS, 50.0 * slowness))
        return Tally(n - left, failed, tuple(headers.tolist()))


def counters(answered: int, *, failed: int = 0, invalid: int = 0) -> ServiceCounters:
    """Return a service's counters without latencies."""
    return Meter(requests=answered + failed, failed=failed, answered=answered, invalid=invalid).read()


@functools.cache
def _shares(bounds: tuple[float, ...], median: float) -> NDArray[np.float64]:
    """Return the share of every bucket for lognormal durations."""
    normal = NormalDist(np.log(median), SIGMA)
    below = np.array([0.0, *(normal.cdf(float(np.log(bound))) for bound in bounds), 1.0])
    return np.diff(below)


def _summed(passed: list[Tallies]) -> Tallies:
    found: Tallies = {}
    for tallies in passed:
        for key, tally in tallies.items():
            before = found.get(key, Tally())
            latency = tally.latency if not before.latency else before.latency
            if before.latency and tally.latency:
                latency = tuple(map(sum, zip(before.latency, tally.latency, strict=True)))
            found[key] = Tally(before.exposures + tally.exposures, before.bad + tally.bad, latency)
    return found
