"""What a look at a rollout under traffic leads to: on, back, or stay; a pure function of evidence and reading."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Self

import numpy as np

from pipelines.formats.headers import Traffic
from pipelines.ledger import Evidence, Outcome, Phase, RolloutState
from pipelines.release import agreement, sequential
from pipelines.release.evidence import (
    ERRORS,
    MIN_LOOKS,
    VALIDITY,
    exp,
    log_bet,
    log_e_star,
    log_mixture,
    looks_at_latency,
    shares,
)
from pipelines.release.reading import Compared, Reading
from pipelines.spec import Frozen, RolloutConfig

MIN_GUARDED = 20
"""Fewest requests of each arm in one look for the guard that watches both."""


class VerdictKind(StrEnum):
    """What a look leads to."""

    ADVANCE = "advance"
    HOLD = "hold"
    ROLLBACK = "rollback"


class Verdict(Frozen):
    """What a look leads to, and why."""

    kind: VerdictKind
    reason: str
    outcome: Outcome = Outcome.NONE

    @classmethod
    def hold(cls, reason: str) -> Self:
        """Return a verdict to stay where the rollout is."""
        return cls(kind=VerdictKind.HOLD, reason=reason)

    @classmethod
    def rollback(cls, outcome: Outcome, reason: str) -> Self:
        """Return a verdict to go back."""
        return cls(kind=VerdictKind.ROLLBACK, reason=reason, outcome=outcome)


def judge(evidence: Evidence, reading: Reading, state: RolloutState, config: RolloutConfig) -> Verdict:
    """Return the verdict of a look: dead before worse, worse before too long, and evidence last.

    Args:
        evidence: with the reading absorbed.
        reading: the look's.
        state: where the rollout is: SHADOW, STEP or BAKE_FULL.
        config: its rules.
    """
    return (
        _if_dead(evidence, reading, config)
        or _if_worse(evidence, state, config)
        or _if_held_too_long(evidence, config)
        or _if_held(evidence, reading, state, config)
        or Verdict(kind=VerdictKind.ADVANCE, reason="enough evidence")
    )


def _if_dead(evidence: Evidence, reading: Reading, config: RolloutConfig) -> Verdict | None:
    since = evidence.unready_since
    if since is None or reading.at - since <= config.unready_seconds:
        return None
    return Verdict.rollback(Outcome.UNHEALTHY, f"the new copy has not been ready for {reading.at - since:.0f} s")


def _if_worse(evidence: Evidence, state: RolloutState, config: RolloutConfig) -> Verdict | None:
    limit = -math.log(config.alpha)
    log_e = log_e_star(evidence, config)
    if log_e >= limit:
        worst = max(shares(config), key=lambda metric: log_mixture(evidence.log_e, metric))
        reason = f"E = {exp(log_e)} of {exp(limit)}, most of it from {worst} ({_described(evidence)})"
        return Verdict.rollback(Outcome.WORSE, reason)
    log_full = float(np.logaddexp.reduce([log_mixture(evidence.full, metric) for metric in (ERRORS, VALIDITY)]))
    if state.phase is Phase.BAKE_FULL and log_full - math.log(2.0) >= limit:
        reason = f"at 100 % more than {100 * config.max_bad_rate:g} % of its requests are bad ({_described(evidence)})"
        return Verdict.rollback(Outcome.WORSE, reason)
    return None


def _if_held_too_long(evidence: Evidence, config: RolloutConfig) -> Verdict | None:
    if evidence.held_seconds < config.max_hold_seconds:
        return None
    return Verdict.rollback(Outcome.NO_EVIDENCE, f"no verdict within {config.max_hold_seconds:g} s")


def _if_held(evidence: Evidence, reading: Reading, state: RolloutState, config: RolloutConfig) -> Verdict | None:
    if reading.hold:
        return Verdict.hold(reading.hold)
    if not reading.is_ready:
        return Verdict.hold("the new copy is not ready")
    if evidence.split and float(sequential.mixture(np.array(evidence.split))) >= -math.log(sequential.SPLIT_ALPHA):
        return Verdict.hold(f"user traffic is not divided as planned ({_described(evidence)})")
    if difference := agreement.disagreement(evidence.counted):
        return Verdict.hold(difference)
    users = reading.failures.get(Traffic.USER, Compared())
    if min(users.canary, users.stable) >= MIN_GUARDED and all(
        bad > config.max_bad_rate * n for n, bad in ((users.canary, users.canary_bad), (users.stable, users.stable_bad))
    ):
        return Verdict.hold("both versions fail: an incident that no rollback ends; look at what they share")
    missing = next(_missing(evidence, reading, state, config), None)
    return None if missing is None else Verdict.hold(missing)


def _missing(evidence: Evidence, reading: Reading, state: RolloutState, config: RolloutConfig) -> Iterator[str]:
    """Yield what a weight still lacks; a mirror needs no user, and at 100 % there is nothing left to earn."""
    since = reading.at if evidence.since is None else evidence.since
    least = {
        Phase.SHADOW: config.shadow_seconds,
        Phase.STEP: config.bake_seconds,
        Phase.BAKE_FULL: config.bake_full_seconds,
    }[state.phase]
    if reading.at - since < least:
        yield f"{reading.at - since:.0f} of {least:g} s at this weight"
    if state.phase is Phase.BAKE_FULL:
        return
    if config.quality.enabled and evidence.pairs < config.quality.min_pairs:
        yield f"{evidence.pairs} of {config.quality.min_pairs} reference pairs are scored"
    if state.phase is Phase.SHADOW:
        return
    if evidence.exposures < config.min_user_exposures:
        yield f"{evidence.exposures} of {config.min_user_exposures} user exposures at this weight"
    if config.metric_weights.latency:
        yield from _missing_of_latency(evidence, reading.at, since, least)
    needed = -math.log(config.beta)
    for metric in (ERRORS, VALIDITY):
        if (found := log_bet(evidence, metric)) < needed:
            clean = sequential.exposures_needed(config.max_bad_rate, config.beta)
            yield (
                f"evidence on {metric} is {exp(found)} of {exp(needed)} (a version without bad events needs {clean} "
                "requests)"
            )


def _missing_of_latency(evidence: Evidence, now: float, since: float, least: float) -> Iterator[str]:
    """Yield what is missing until latencies were judged for as long as a weight lasts at least.

    A slow version must not rise at the very look at which stable's latencies become known.
    """
    known = looks_at_latency(evidence)
    if known is None:
        return
    if known < MIN_LOOKS:
        yield f"stable's latencies are known from {known} of {MIN_LOOKS} looks"
    judged = now - max(since, now if evidence.latency_since is None else evidence.latency_since)
    if judged < least:
        yield f"latencies were judged for {judged:.0f} of {least:g} s at this weight"


def _described(evidence: Evidence) -> str:
    return ", ".join(f"{key} {bad} bad of {n}" for key, (n, bad) in sorted(evidence.totals.items()) if n) or "no counts"
