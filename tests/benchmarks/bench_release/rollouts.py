"""Whole rollouts on errors alone: evidence to advance against "no failed check"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.release.sequential import BETS, RATIOS, combined, evidence_increment, mixture, worse_increment
from tests.benchmarks.bench_release.peers import MAX_ERROR_RATE, MAX_FAILED_CHECKS
from tests.benchmarks.bench_release.rule import ALPHA, WEIGHT
from tests.benchmarks.bench_release.scenarios import LOOK_SECONDS, Metric

STABLE_RATE = 0.001
REQUESTS_PER_SECOND = 20.0
BETA = 0.05
MAX_BAD_RATE = 0.01
BAKE_SECONDS = 60
MIN_USER_EXPOSURES = 50
MAX_SECONDS = 3_600
SHADOW_THEN_WEIGHTS = np.array([1.0, 0.05, 0.25, 0.5])
"""Canary's share of exposures: mirrored traffic first, where stable has as many."""

PEER_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Ends:
    """How rollouts ended."""

    promoted_after: NDArray[np.float64]
    """Seconds, `[runs]`; infinite for those that were not."""

    rolled_back: NDArray[np.bool_]


def slipway_rollouts(canary_rate: float, runs: int, seed: int) -> Ends:
    """Run shadow, 5, 25 and 50 % under this rule."""
    rng = np.random.default_rng(seed)
    log_e, evidence = np.zeros((runs, len(RATIOS))), np.zeros((runs, len(BETS)))
    step, begun, users = np.zeros(runs, dtype=int), np.zeros(runs), np.zeros(runs)
    ends = Ends(np.full(runs, np.inf), np.zeros(runs, dtype=bool))
    for now in range(LOOK_SECONDS, MAX_SECONDS + 1, LOOK_SECONDS):
        running = ~ends.rolled_back & np.isinf(ends.promoted_after)
        total = rng.poisson(REQUESTS_PER_SECOND * LOOK_SECONDS, runs)
        n_c = rng.binomial(total, SHADOW_THEN_WEIGHTS[step])
        n_s = np.where(step == 0, total, total - n_c)
        b_c, b_s = rng.binomial(n_c, canary_rate), rng.binomial(n_s, STABLE_RATE)
        log_e += worse_increment(n_c, b_c, n_s, b_s, tau=1.0)
        evidence += evidence_increment(n_c - b_c, b_c, max_bad_rate=MAX_BAD_RATE)
        users += np.where(step == 0, MIN_USER_EXPOSURES, n_c)
        ends.rolled_back[running & (log_e_star(log_e) >= -math.log(ALPHA))] = True
        ready = (now - begun >= BAKE_SECONDS) & (users >= MIN_USER_EXPOSURES)
        advances = running & ~ends.rolled_back & ready & (mixture(evidence) >= -math.log(BETA))
        is_last = step == len(SHADOW_THEN_WEIGHTS) - 1
        ends.promoted_after[advances & is_last] = now
        moves = advances & ~is_last
        step[moves] += 1
        begun[moves], users[moves] = now, 0.0
    return ends


def log_e_star(log_e: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log E* when errors are the only metric that sees anything."""
    weight = WEIGHT[Metric.ERRORS]
    logs = mixture(log_e)
    return combined(np.stack([logs, np.zeros_like(logs)], axis=-1), [weight, 1.0 - weight])


def peer_rollouts(canary_rate: float, runs: int, seed: int) -> Ends:
    """Run 10 to 50 % under peer 1: a minute without a failed check raises the weight, the fifth failed one ends it."""
    rng = np.random.default_rng(seed)
    step, failed = np.zeros(runs, dtype=int), np.zeros(runs, dtype=int)
    ends = Ends(np.full(runs, np.inf), np.zeros(runs, dtype=bool))
    for now in range(60, MAX_SECONDS + 1, 60):
        running = ~ends.rolled_back & np.isinf(ends.promoted_after)
        n = rng.poisson(60 * REQUESTS_PER_SECOND * np.array(PEER_WEIGHTS)[np.minimum(step, len(PEER_WEIGHTS) - 1)])
        fails = rng.binomial(n, canary_rate) > MAX_ERROR_RATE * n
        failed += fails
        step += ~fails
        ends.rolled_back[running & (failed >= MAX_FAILED_CHECKS)] = True
        ends.promoted_after[running & ~ends.rolled_back & (step == len(PEER_WEIGHTS))] = now
    return ends
