"""What becomes of a rollout when it is its turn: begun, not needed, or refused before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.ledger import Evidence, Outcome, Phase, Rollout, RolloutState, Service, Version
from pipelines.release.evidence import carried


def admit(
    rollout: Rollout, service: Service, *, trials: Sequence[Rollout], was_promoted: bool, now: float
) -> RolloutState:
    """Return the state of a queued rollout when it is its turn.

    Args:
        rollout: the oldest in the queue.
        service: with the champion of this moment.
        trials: earlier rollouts of the same bento, the latest first.
        was_promoted: whether the candidate's weights were promoted before.
        now: time by the ledger's clock.
    """
    candidate, champion, state = rollout.candidate, service.champion, rollout.state
    if champion is not None and champion.bento == candidate.bento:
        return _not_needed(state, Outcome.ALREADY_SERVING, f"version {champion.number} of {service.name} is this bento")
    is_repackaged = champion is not None and champion.model == candidate.model
    if was_promoted and not is_repackaged and not (rollout.forced or rollout.is_direct):
        detail = f"these weights were in production earlier; version {_number(champion)} has replaced them"
        return _not_needed(state, Outcome.SUPERSEDED, detail)
    if reason := _reason_to_refuse(rollout, champion, trials, is_repackaged=is_repackaged):
        return replace(state, phase=Phase.ROLLED_BACK, outcome=Outcome.REFUSED, detail=reason)
    deadline = now + rollout.config.ready_timeout_seconds
    evidence = _inherited(rollout, champion, trials)
    return replace(state, phase=Phase.STAGE, generation=service.generation, deadline=deadline, evidence=evidence)


def _not_needed(state: RolloutState, outcome: Outcome, detail: str) -> RolloutState:
    return replace(state, phase=Phase.NOT_NEEDED, outcome=outcome, detail=detail)


def _reason_to_refuse(
    rollout: Rollout, champion: Version | None, trials: Sequence[Rollout], *, is_repackaged: bool
) -> str:
    """Return why a candidate is refused before anything is started, or nothing."""
    if rollout.is_direct:
        return ""
    if not (_is_evaluated_against(rollout.candidate, champion) or is_repackaged or rollout.forced):
        return f"the champion changed since evaluate: now version {_number(champion)}; clear from evaluate"
    latest = trials[0] if trials else None
    if latest and latest.state.outcome in (Outcome.WORSE, Outcome.REFUSED) and not rollout.override:
        return (
            f"rollout {latest.id} rolled this bento back as {latest.state.outcome} ({latest.state.detail}); "
            "make a better one, or say why it may try again (trigger with `override`)"
        )
    return ""


def _inherited(rollout: Rollout, champion: Version | None, trials: Sequence[Rollout]) -> Evidence:
    """Return the evidence with which a trial begins: what earlier ones had against the same pair of models.

    With `override` E starts at 1; the pairs that were looked at then are not looked at a second time.
    """
    same = (trial for trial in trials if champion and trial.stable and trial.stable.model == champion.model)
    latest = next(same, None)
    if latest is None or latest.state.phase is Phase.PROMOTED:
        return Evidence()
    earlier = latest.state.evidence
    return Evidence(pairs=earlier.pairs) if rollout.override else carried(earlier)


def _is_evaluated_against(candidate: Version, champion: Version | None) -> bool:
    return candidate.evaluated_against == (None if champion is None else champion.model)


def _number(version: Version | None) -> str:
    return "none" if version is None else str(version.number)
