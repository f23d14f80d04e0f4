"""The state machine of a rollout: pure functions from a state and what one look saw to the next state.

    QUEUED -> STAGE -> SMOKE -> PROMOTING -> DRAIN_OLD -> PROMOTED
    QUEUED -> NOT_NEEDED{already_serving, superseded}
    any state that is not final -> ROLLING_BACK -> ROLLED_BACK{unhealthy, refused, aborted, dead_man} | ROLLBACK_FAILED

The controller makes the world fit the state (`reconcile`), looks, and asks here what comes next. A state is written
down before the world is made to fit it, so that a crash at any point is followed by the same next action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from pipelines.ledger import Outcome, Phase, Rollout, RolloutState, Service, Version
from pipelines.release.ports import FULL_BP, Served, SmokeReport


class Transition(StrEnum):
    """What a permit allows; also the name of the task that asks for it."""

    STAGE = "stage"
    SMOKE = "smoke"
    PROMOTE = "promote"


_COURSE = (Phase.QUEUED, Phase.STAGE, Phase.SMOKE, Phase.PROMOTING, Phase.DRAIN_OLD, Phase.PROMOTED)
_PASSED_AT = {Transition.STAGE: Phase.STAGE, Transition.SMOKE: Phase.SMOKE, Transition.PROMOTE: Phase.PROMOTED}


@dataclass(frozen=True)
class Seen:
    """What one look saw. Nothing in it was seen unless it says so: silence is not success."""

    now: float
    """Time of the look by the ledger's clock."""

    permits: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    """Copies of the service that are started."""

    ready: frozenset[str] = frozenset()
    """Copies that say they are ready."""

    is_routed: bool = False
    """The router was seen to do what the state desires."""

    in_flight: int | None = None
    """Requests that the copy which is being drained still answers."""

    smoke: SmokeReport | None = None
    served: Served | None = None
    """Who answered a user's request."""

    problem: str = ""
    """What went wrong in this look."""

    is_hopeless: bool = False
    """The problem cannot pass by itself."""


def admit(rollout: Rollout, service: Service, *, was_promoted: bool, now: float) -> RolloutState:
    """Return the state of a queued rollout when it is its turn.

    Args:
        rollout: the oldest in the queue.
        service: with the champion of this moment.
        was_promoted: whether the candidate's weights were promoted before.
        now: time by the ledger's clock.
    """
    candidate, champion, state = rollout.candidate, service.champion, rollout.state
    if champion is not None and champion.bento == candidate.bento:
        return _not_needed(state, Outcome.ALREADY_SERVING, f"version {champion.number} of {service.name} is this bento")
    is_repackaged = champion is not None and champion.model == candidate.model
    if was_promoted and not is_repackaged and not rollout.forced:
        detail = f"these weights were in production earlier; version {_number(champion)} has replaced them"
        return _not_needed(state, Outcome.SUPERSEDED, detail)
    if not (_is_evaluated_against(candidate, champion) or is_repackaged or rollout.forced):
        detail = f"the champion changed since evaluate: now version {_number(champion)}; clear from evaluate"
        return replace(state, phase=Phase.ROLLED_BACK, outcome=Outcome.REFUSED, detail=detail)
    deadline = now + candidate.rollout.ready_timeout_seconds
    return replace(state, phase=Phase.STAGE, generation=service.generation, deadline=deadline)


def advance(rollout: Rollout, seen: Seen) -> RolloutState:
    """Return the state after one look; the caller writes it down and makes the world fit it."""
    step = _STEPS.get(rollout.state.phase)
    return rollout.state if step is None else step(rollout, seen)


def roll_back(rollout: Rollout, outcome: Outcome, detail: str, now: float) -> RolloutState:
    """Return the state in which all weight goes back to stable; a rollback under way, or an end, stays as it is."""
    state = rollout.state
    if state.is_final or state.phase is Phase.ROLLING_BACK:
        return state
    if state.phase is Phase.QUEUED:
        return replace(state, phase=Phase.ROLLED_BACK, outcome=outcome, detail=detail)
    return replace(
        state,
        phase=Phase.ROLLING_BACK,
        is_done=False,
        canary_bp=0,
        confirmed_bp=None,
        generation=state.generation + 1,
        deadline=now + rollout.candidate.rollout.ready_timeout_seconds,
        hold_reason="",
        outcome=outcome,
        detail=detail,
    )


def is_passed(state: RolloutState, transition: Transition) -> bool:
    """Say whether the phase that a permit allowed is behind the rollout."""
    if state.phase is Phase.NOT_NEEDED:
        return True
    if state.phase not in _COURSE:
        return False
    here, there = _COURSE.index(state.phase), _COURSE.index(_PASSED_AT[transition])
    return here > there or (here == there and (state.is_done or state.is_final))


def champion_after(rollout: Rollout, state: RolloutState) -> Version | None:
    """Return the version that a move makes champion, or None when the champion stays.

    The candidate becomes champion when it has answered a user; a rollback after that gives the title back.
    """
    before = rollout.state.phase
    if before is Phase.PROMOTING and state.phase in (Phase.DRAIN_OLD, Phase.PROMOTED):
        return rollout.candidate
    if before is Phase.DRAIN_OLD and state.phase is Phase.ROLLING_BACK:
        return rollout.stable
    return None


def may_be_lowered(rollout: Rollout) -> bool:
    """Say whether whoever waits may take user weight from the candidate when the controller is dead.

    Not on a first release (nobody else could answer), and not when the candidate is champion already.
    """
    return rollout.state.phase is Phase.PROMOTING and rollout.state.canary_bp > 0 and rollout.stable is not None


def _stage(rollout: Rollout, seen: Seen) -> RolloutState:
    if rollout.state.is_done:
        return _await_permit(rollout, seen, Transition.SMOKE, _entering(rollout, seen, Phase.SMOKE))
    if rollout.candidate.copy_name in seen.ready and seen.is_routed:
        return _done(rollout, seen)
    return _hold(rollout, seen, "the new copy is not ready")


def _smoke(rollout: Rollout, seen: Seen) -> RolloutState:
    if rollout.state.is_done:
        return _await_permit(rollout, seen, Transition.PROMOTE, _full_weight(rollout, seen))
    if seen.smoke is None:
        return _hold(rollout, seen, "golden requests are not answered")
    if not seen.smoke.passed:
        return roll_back(rollout, Outcome.REFUSED, seen.smoke.evidence, seen.now)
    return _done(rollout, seen)


def _promoting(rollout: Rollout, seen: Seen) -> RolloutState:
    state = rollout.state
    if state.confirmed_bp is None:
        if seen.is_routed:
            return replace(state, confirmed_bp=state.canary_bp, hold_reason="")
        return _hold(rollout, seen, "the router has not confirmed the weight")
    if seen.served is None:
        return _hold(rollout, seen, "no answer through the router")
    if not seen.served.is_of(rollout.candidate):
        return roll_back(rollout, Outcome.UNHEALTHY, f"the endpoint answers as {seen.served}", seen.now)
    if rollout.stable is None:
        return _promoted(replace(state, generation=state.generation + 1), "first release of the service")
    deadline = seen.now + rollout.candidate.rollout.drain_timeout_seconds
    return replace(state, phase=Phase.DRAIN_OLD, is_done=False, deadline=deadline, hold_reason="")


def _drain_old(rollout: Rollout, seen: Seen) -> RolloutState:
    state = rollout.state
    if not state.is_done:
        return _drained(rollout, seen, "the old copy still answers requests")
    old = rollout.stable
    if old is None or (seen.is_routed and old.copy_name not in seen.running):
        return _promoted(state, f"replaced version {_number(old)}")
    if _is_late(state, seen):
        return _promoted(state, f"replaced version {_number(old)}, whose copy is not stopped yet: {seen.problem}")
    return replace(state, hold_reason=_because("the old copy is not stopped", seen))


def _rolling_back(rollout: Rollout, seen: Seen) -> RolloutState:
    state, stable = rollout.state, rollout.stable
    if state.confirmed_bp is None:
        if seen.is_routed:
            deadline = seen.now + rollout.candidate.rollout.drain_timeout_seconds
            return replace(state, confirmed_bp=0, deadline=deadline, hold_reason="")
        return _hold_rollback(state, seen, "stable is not ready to take the traffic back")
    if not state.is_done:
        return _drained(rollout, seen, "the candidate still answers requests")
    if not seen.is_routed or rollout.candidate.copy_name in seen.running:
        return _hold_rollback(state, seen, "the candidate is not stopped")
    if stable is not None and not (seen.served and seen.served.is_of(stable)):
        return _hold_rollback(state, seen, "the endpoint does not answer as the old version")
    return replace(state, phase=Phase.ROLLED_BACK, is_done=False, deadline=None, hold_reason="")


_STEPS: dict[Phase, Callable[[Rollout, Seen], RolloutState]] = {
    Phase.STAGE: _stage,
    Phase.SMOKE: _smoke,
    Phase.PROMOTING: _promoting,
    Phase.DRAIN_OLD: _drain_old,
    Phase.ROLLING_BACK: _rolling_back,
}


def _drained(rollout: Rollout, seen: Seen, otherwise: str) -> RolloutState:
    """Wait for the last answers of the copy that leaves; then take it out of the route, so that it can be stopped."""
    state = rollout.state
    if seen.in_flight != 0 and not _is_late(state, seen):
        return replace(state, hold_reason=_because(otherwise, seen))
    deadline = seen.now + rollout.candidate.rollout.ready_timeout_seconds
    return replace(state, is_done=True, generation=state.generation + 1, deadline=deadline, hold_reason="")


def _await_permit(rollout: Rollout, seen: Seen, transition: Transition, permitted: RolloutState) -> RolloutState:
    if transition in seen.permits:
        return permitted
    if _is_late(rollout.state, seen):
        detail = f"no permit for {transition} within {rollout.candidate.rollout.permit_timeout_seconds} s"
        return roll_back(rollout, Outcome.ABORTED, detail, seen.now)
    return replace(rollout.state, hold_reason=f"waiting for the permit to {transition}")


def _entering(rollout: Rollout, seen: Seen, phase: Phase) -> RolloutState:
    deadline = seen.now + rollout.candidate.rollout.ready_timeout_seconds
    return replace(rollout.state, phase=phase, is_done=False, deadline=deadline, hold_reason="")


def _full_weight(rollout: Rollout, seen: Seen) -> RolloutState:
    entering = _entering(rollout, seen, Phase.PROMOTING)
    return replace(entering, canary_bp=FULL_BP, confirmed_bp=None, generation=entering.generation + 1)


def _done(rollout: Rollout, seen: Seen) -> RolloutState:
    state = rollout.state
    deadline = seen.now + rollout.candidate.rollout.permit_timeout_seconds
    return replace(state, is_done=True, confirmed_bp=state.canary_bp, deadline=deadline, hold_reason="")


def _hold(rollout: Rollout, seen: Seen, reason: str) -> RolloutState:
    reason = _because(reason, seen)
    if seen.is_hopeless:
        return roll_back(rollout, Outcome.REFUSED, reason, seen.now)
    if _is_late(rollout.state, seen):
        detail = f"{reason}, for {rollout.candidate.rollout.ready_timeout_seconds} s"
        return roll_back(rollout, Outcome.UNHEALTHY, detail, seen.now)
    return replace(rollout.state, hold_reason=reason)


def _hold_rollback(state: RolloutState, seen: Seen, reason: str) -> RolloutState:
    reason = _because(reason, seen)
    if _is_late(state, seen):
        detail = f"{state.detail}; the rollback failed: {reason}"
        return replace(state, phase=Phase.ROLLBACK_FAILED, is_done=False, deadline=None, hold_reason="", detail=detail)
    return replace(state, hold_reason=reason)


def _promoted(state: RolloutState, detail: str) -> RolloutState:
    return replace(
        state,
        phase=Phase.PROMOTED,
        is_done=False,
        deadline=None,
        hold_reason="",
        outcome=Outcome.PROMOTED,
        detail=detail,
    )


def _not_needed(state: RolloutState, outcome: Outcome, detail: str) -> RolloutState:
    return replace(state, phase=Phase.NOT_NEEDED, outcome=outcome, detail=detail)


def _because(reason: str, seen: Seen) -> str:
    return f"{reason}: {seen.problem}" if seen.problem else reason


def _is_late(state: RolloutState, seen: Seen) -> bool:
    return state.deadline is not None and seen.now > state.deadline


def _is_evaluated_against(candidate: Version, champion: Version | None) -> bool:
    return candidate.evaluated_against == (None if champion is None else champion.model)


def _number(version: Version | None) -> str:
    return "none" if version is None else str(version.number)
