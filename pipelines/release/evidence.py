"""What the looks of a rollout add up to: pure functions from evidence and one reading to new evidence and a verdict.

The method is in `pipelines.release.sequential`; here is what is fed into it. Every metric is a count of bad events per
arm. User, mirrored and pinned requests are strata of their own: each is compared with its own stable requests, and the
increments add up. Replaying the readings in the ledger's events through these functions gives every verdict again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pipelines.formats.headers import Traffic
from pipelines.ledger import Evidence, Phase, RolloutState
from pipelines.release import agreement, sequential
from pipelines.release.ports import FULL_BP
from pipelines.release.reading import BOUNDS, Compared, Reading
from pipelines.spec import Frozen, RolloutConfig

ERRORS, VALIDITY, QUALITY = "errors", "validity", "quality"
QUANTILES = (0.5, 0.9, 0.95, 0.99)
MIN_WINDOW = 50.0
"""Fewest of stable's latencies from which its quantiles are taken."""

FADING_SECONDS = 60.0
"""After so long, a latency's weight in stable's window has fallen to 1/e."""

MIN_LOOKS, MAX_LOOKS = 30, 60
"""Looks at stable from which is estimated how much latencies cluster: with fewer, none counts; older ones are dropped.
With 6 looks of 10 s, bursts of 3 s roll back 3.4 % of equal versions at 50 %; with 30, 0.6 % (`make bench-release`)."""

SETTLING_SECONDS = 10.0
"""After a weight was confirmed, requests that began before it still end."""


class Standing(Frozen):
    """Where a rollout stands, in the numbers that people compare."""

    log_e: float
    """Log of E*; at `log_limit` the candidate counts as worse."""

    log_limit: float
    log_evidence: float
    """The smaller of the two betting processes' logs; at `log_needed` the weight may rise."""

    log_needed: float
    exposures: int
    """User exposures of the candidate at the present weight."""

    pairs: int


def latency_metric(latency: str, quantile: float) -> str:
    """Return the name of the metric "above stable's quantile"."""
    return f"{latency}_p{100 * quantile:g}"


def shares(config: RolloutConfig) -> dict[str, float]:
    """Return the weight of every metric in E*, fixed before the rollout; latency's is split equally."""
    weights = config.metric_weights
    per_latency = weights.latency / (len(BOUNDS) * len(QUANTILES))
    latencies = {latency_metric(name, quantile): per_latency for name in BOUNDS for quantile in QUANTILES}
    quality = weights.quality if config.quality.enabled else 0.0
    return {ERRORS: weights.errors, VALIDITY: weights.validity, QUALITY: quality, **latencies}


def begin_weight(evidence: Evidence, now: float) -> Evidence:
    """Return the evidence at the moment at which a new weight was confirmed; only what belongs to a weight restarts."""
    return evidence.model_copy(
        update={
            "mark": evidence.cursor or "",
            "since": now,
            "exposures": 0,
            "split": (),
            "counted": {},
            "held_seconds": 0.0,
            "looked_at": now,
        }
    )


def carried(earlier: Evidence) -> Evidence:
    """Return what a new trial of the same two digests inherits: the case against the candidate, not the one for it."""
    return Evidence(log_e=earlier.log_e, pairs=earlier.pairs)


def learn(evidence: Evidence, reading: Reading, config: RolloutConfig) -> Evidence:
    """Return the evidence after a reading that was taken before the comparison: only how stable's latencies lie."""
    return evidence.model_copy(
        update={
            "looked_at": reading.at,
            "cursor": reading.cursor,
            "meters": {**evidence.meters, **reading.meters},
            **_stable_latencies(evidence, reading, _slow(evidence, reading, config)),
        }
    )


def absorb(evidence: Evidence, reading: Reading, state: RolloutState, config: RolloutConfig) -> Evidence:
    """Return the evidence after one reading.

    Args:
        evidence: before.
        reading: what happened since.
        state: where the rollout was while it happened.
        config: its rules.
    """
    log_e = {name: np.array(values) for name, values in evidence.log_e.items()}
    bets = {name: np.array(values) for name, values in evidence.bets.items()}
    full = {name: np.array(values) for name, values in evidence.full.items()}

    def add(logs: dict[str, sequential.Floats], metric: str, increment: sequential.Floats) -> None:
        logs[metric] = logs.get(metric, 0.0) + increment

    for metric, strata in ((ERRORS, reading.failures), (VALIDITY, reading.invalid)):
        for traffic, seen in strata.items():
            add(log_e, metric, _worse(seen, config))
            good = seen.canary - seen.canary_bad
            add(bets, metric, sequential.evidence_increment(good, seen.canary_bad, max_bad_rate=config.max_bad_rate))
            if state.phase is Phase.BAKE_FULL and traffic is Traffic.USER:
                absolute = sequential.absolute_increment(seen.canary, seen.canary_bad, max_bad_rate=config.max_bad_rate)
                add(full, metric, absolute)
    slow = list(_slow(evidence, reading, config))
    for metric, increment in _latency_increments(evidence, slow, config):
        add(log_e, metric, increment)
    if reading.pairs:
        add(log_e, QUALITY, sequential.pair_increment(reading.canary_worse, reading.stable_worse))

    users = reading.failures.get(Traffic.USER, Compared())
    return evidence.model_copy(
        update={
            "looks": evidence.looks + 1,
            "looked_at": reading.at,
            "cursor": reading.cursor,
            "meters": {**evidence.meters, **reading.meters},
            "log_e": _plain(log_e),
            "bets": _plain(bets),
            "full": _plain(full),
            "split": _split(evidence, users, state, reading.at),
            **_stable_latencies(evidence, reading, slow),
            "exposures": evidence.exposures + (users.canary if _is_confirmed_step(state) else 0),
            "totals": _totals(evidence, reading),
            "counted": agreement.added(evidence.counted, reading),
            "pairs": evidence.pairs + reading.pairs,
            "unready_since": None if reading.is_ready else _first(evidence.unready_since, reading.at),
        }
    )


def held(evidence: Evidence, before: Evidence, config: RolloutConfig) -> Evidence:
    """Return the evidence after a look that held: time without enough of it counts, but not a controller's absence."""
    if before.looked_at is None or evidence.looked_at is None:
        return evidence
    passed = min(evidence.looked_at - before.looked_at, 2 * config.look_seconds)
    return evidence.model_copy(update={"held_seconds": evidence.held_seconds + max(0.0, passed)})


def standing(evidence: Evidence, config: RolloutConfig) -> Standing:
    """Return where a rollout stands."""
    return Standing(
        log_e=log_e_star(evidence, config),
        log_limit=-math.log(config.alpha),
        log_evidence=min(log_bet(evidence, metric) for metric in (ERRORS, VALIDITY)),
        log_needed=-math.log(config.beta),
        exposures=evidence.exposures,
        pairs=evidence.pairs,
    )


def _first(known: float | None, now: float) -> float:
    return now if known is None else known


def _worse(seen: Compared, config: RolloutConfig, design_effect: float = 1.0) -> sequential.Floats:
    return sequential.worse_increment(
        seen.canary, seen.canary_bad, seen.stable, seen.stable_bad, tau=config.tau, design_effect=design_effect
    )


def _slow(evidence: Evidence, reading: Reading, config: RolloutConfig) -> Iterator[tuple[str, str, Compared]]:
    """Yield metric, key of the spread, and counts above stable's quantiles as they were before this reading."""
    for key, seen in reading.latencies.items():
        latency = key.partition("/")[0]
        bounds = BOUNDS[latency]
        window = evidence.windows.get(key.replace(Traffic.SHADOW, Traffic.USER), ())  # stable's are the same requests
        if sum(window) < MIN_WINDOW:
            continue
        canary, stable = _dense(seen.canary, bounds), _dense(seen.stable, bounds)
        for quantile in QUANTILES:
            index = sequential.quantile_bucket(window, quantile, config.latency_margin, bounds)
            counts = Compared(
                canary=int(canary.sum()),
                canary_bad=int(sequential.above(canary, index)),
                stable=int(stable.sum()),
                stable_bad=int(sequential.above(stable, index)),
            )
            yield latency_metric(latency, quantile), f"{key}_p{100 * quantile:g}", counts


def _latency_increments(
    evidence: Evidence, slow: Iterable[tuple[str, str, Compared]], config: RolloutConfig
) -> Iterator[tuple[str, sequential.Floats]]:
    for metric, key, seen in slow:
        looks = evidence.spreads.get(key, ())
        if len(looks) >= MIN_LOOKS:
            effect = sequential.design_effect([bad for bad, _ in looks], [n for _, n in looks])
            yield metric, _worse(seen, config, effect)


def _stable_latencies(
    evidence: Evidence, reading: Reading, slow: Iterable[tuple[str, str, Compared]]
) -> dict[str, Any]:
    """Return the fields of the evidence that tell how stable's latencies lie, after a reading."""
    spreads = _spreads(evidence, slow)
    is_known = _most_looks(spreads) >= MIN_LOOKS
    return {
        "windows": _windows(evidence, reading),
        "spreads": spreads,
        "latency_since": _first(evidence.latency_since, reading.at) if is_known else None,
    }


def _spreads(evidence: Evidence, slow: Iterable[tuple[str, str, Compared]]) -> dict[str, tuple[tuple[int, int], ...]]:
    spreads = dict(evidence.spreads)
    for _, key, seen in slow:
        if seen.stable:
            spreads[key] = (*spreads.get(key, ()), (seen.stable_bad, seen.stable))[-MAX_LOOKS:]
    return spreads


def _most_looks(spreads: Mapping[str, tuple[tuple[int, int], ...]]) -> int:
    return max(map(len, spreads.values()), default=0)


def _windows(evidence: Evidence, reading: Reading) -> dict[str, tuple[float, ...]]:
    windows = dict(evidence.windows)
    passed = 0.0 if evidence.looked_at is None else max(0.0, reading.at - evidence.looked_at)
    fading = math.exp(-passed / FADING_SECONDS)
    for key, seen in reading.latencies.items():
        new = _dense(seen.stable, BOUNDS[key.partition("/")[0]])
        if new.any():
            old = np.array(windows.get(key, np.zeros_like(new)))
            windows[key] = tuple(round(float(count), 3) for count in fading * old + new)
    return windows


def _split(evidence: Evidence, users: Compared, state: RolloutState, at: float) -> tuple[float, ...]:
    is_settled = evidence.since is not None and at - evidence.since > SETTLING_SECONDS
    if not (_is_confirmed_step(state) and is_settled):
        return evidence.split
    increment = sequential.split_increment(users.canary, users.canary + users.stable, share=state.canary_bp / FULL_BP)
    return tuple(float(value) for value in np.array(evidence.split or np.zeros_like(increment)) + increment)


def _is_confirmed_step(state: RolloutState) -> bool:
    return state.phase is Phase.STEP and state.confirmed_bp == state.canary_bp


def _totals(evidence: Evidence, reading: Reading) -> dict[str, tuple[int, int]]:
    totals = dict(evidence.totals)
    for traffic, seen in reading.failures.items():
        for arm, n, bad in (("canary", seen.canary, seen.canary_bad), ("stable", seen.stable, seen.stable_bad)):
            before = totals.get(f"{arm}/{traffic}", (0, 0))
            totals[f"{arm}/{traffic}"] = (before[0] + n, before[1] + bad)
    return totals


def log_e_star(evidence: Evidence, config: RolloutConfig) -> float:
    """Return the log of E*, the weighted mean over all metrics."""
    weights = shares(config)
    logs = np.array([log_mixture(evidence.log_e, metric) for metric in weights])
    return float(sequential.combined(logs, np.array(list(weights.values()))))


def looks_at_latency(evidence: Evidence) -> int | None:
    """Return from how many looks stable's latencies are known at best; None when no latency was ever measured."""
    return _most_looks(evidence.spreads) if evidence.windows else None


def exp(log: float) -> str:
    """Return the number of a logarithm, short, for people."""
    return f"{math.exp(min(log, 700.0)):.3g}"


def log_bet(evidence: Evidence, metric: str) -> float:
    """Return the log of the betting e-process of a metric: the case for going on."""
    return log_mixture(evidence.bets, metric)


def log_mixture(logs: Mapping[str, tuple[float, ...]], metric: str) -> float:
    """Return the log of a metric's e-process over all its alternatives; 0 while there are no counts."""
    values = logs.get(metric)
    return float(sequential.mixture(np.array(values))) if values else 0.0


def _dense(sparse: Mapping[int, int], bounds: tuple[float, ...]) -> sequential.Floats:
    dense = np.zeros(len(bounds) + 1)
    for index, count in sparse.items():
        dense[index] += count
    return dense


def _plain(logs: Mapping[str, sequential.Floats]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(value) for value in values) for name, values in logs.items()}
