"""Run one scenario many times at once and note when each rule rolls back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench_release.peers import CheckCounter, MannWhitney
from tests.benchmarks.bench_release.rule import SlipwayRule
from tests.benchmarks.bench_release.scenarios import Scenario
from tests.benchmarks.bench_release.traffic import Traffic


@dataclass(frozen=True)
class Outcome:
    """Seconds until each run was rolled back, by rule; infinite where it never was."""

    seconds: dict[str, NDArray[np.float64]]


def simulate(scenario: Scenario, runs: int, seed: int) -> Outcome:
    """Simulate a scenario until it is over or all rules have decided all runs."""
    traffic = Traffic(scenario, runs, seed)
    rule = SlipwayRule(scenario, runs)
    rules = (CheckCounter(scenario, runs), MannWhitney(scenario, runs), rule)
    seconds = {each.name: np.full(runs, np.inf) for each in rules}
    rule.prepare([traffic.minute(index) for index in range(-1 - scenario.history_minutes, 0)])
    for index in range(scenario.minutes):
        minute = traffic.minute(index)
        for each in rules:
            due = each.watch(minute)
            first = index * 60.0 + (due.argmax(axis=1) + 1) * (60.0 / due.shape[1])
            seconds[each.name] = np.minimum(seconds[each.name], np.where(due.any(axis=1), first, np.inf))
        if all(np.isfinite(times).all() for times in seconds.values()):
            break
    return Outcome(seconds)
