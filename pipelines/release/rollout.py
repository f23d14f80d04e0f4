"""The state machine of a rollout: pure functions from a state and what one look saw to the next state.

    QUEUED -> STAGE -> SMOKE -> WARMUP -> SHADOW -> STEP, one weight after the other -> PROMOTING -> BAKE_FULL
        -> DRAIN_OLD -> PROMOTED
    without a comparison (first release, return to an old version): WARMUP -> PROMOTING -> DRAIN_OLD -> PROMOTED
    QUEUED -> NOT_NEEDED{already_serving, superseded}
    any state that is not final -> ROLLING_BACK
        -> ROLLED_BACK{worse, unhealthy, refused, no_evidence, dead_man, aborted} | ROLLBACK_FAILED

The controller makes the world fit the state (`reconcile`), looks, and asks here what comes next. A state is written
down before the world is made to fit it, so that a crash at any point is followed by the same next action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines.ledger import Evidence, Outcome, Phase, Rollout, RolloutState, Version
from pipelines.release import course
from pipelines.release.course import Transition
from pipelines.release.evidence import absorb, begin_weight, held, learn
from pipelines.release.ports import FULL_BP, Served, SmokeReport
from pipelines.release.reading import Reading
from pipelines.release.verdict import VerdictKind, judge

WATCHED = (Phase.SHADOW, Phase.STEP, Phase.BAKE_FULL)
"""Phases in which every look reads counts and comes to a verdict."""

LEARNING = (Phase.STAGE, Phase.SMOKE, Phase.WARMUP)
"""Phases before the comparison, in which a look only learns how stable's latencies lie."""


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

    refusal: str | None = None
    """Why this candidate must not get traffic, whatever its answers; empty: nothing speaks against it."""

    smoke: SmokeReport | None = None
    is_warm: bool = False
    """The candidate has answered the requests that no statistics see."""

    reading: Reading | None = None
    """What was counted since the last look."""

    served: Served | None = None
    """Who answered a user's request."""

    problem: str = ""
    """What went wrong in this look."""

    is_hopeless: bool = False
    """The problem cannot pass by itself."""


def advance(rollout: Rollout, seen: Seen) -> RolloutState:
    """Return the state after one look; the caller writes it down and makes the world fit it."""
    step = _STEPS.get(rollout.state.phase)
    if rollout.state.phase in LEARNING and seen.reading is not None:
        learned = learn(rollout.state.evidence, seen.reading, rollout.config)
        rollout = _with(rollout, learned)
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
        deadline=now + rollout.config.ready_timeout_seconds,
        hold_reason="",
        outcome=outcome,
        detail=detail,
    )


def champion_after(rollout: Rollout, state: RolloutState) -> Version | None:
    """Return the version that a move makes champion, or None when the champion stays.

    The candidate becomes champion when it has answered a user at 100 %; a rollback after that gives the title back.
    """
    before = rollout.state.phase
    if before is Phase.PROMOTING and state.phase in (Phase.BAKE_FULL, Phase.DRAIN_OLD, Phase.PROMOTED):
        return rollout.candidate
    if before in (Phase.BAKE_FULL, Phase.DRAIN_OLD) and state.phase is Phase.ROLLING_BACK:
        return rollout.stable
    return None


def may_be_lowered(rollout: Rollout) -> bool:
    """Say whether whoever waits may take user weight from the candidate when the controller is dead.

    Not on a first release (nobody else could answer), and not when the old copy is on its way out.
    """
    phases = (Phase.STEP, Phase.PROMOTING, Phase.BAKE_FULL)
    return rollout.state.phase in phases and rollout.state.canary_bp > 0 and rollout.stable is not None


def _stage(rollout: Rollout, seen: Seen) -> RolloutState:
    if rollout.state.is_done:
        return _await_permit(rollout, seen, Transition.SMOKE, _entering(rollout, seen, Phase.SMOKE))
    if seen.refusal:
        return roll_back(rollout, Outcome.REFUSED, seen.refusal, seen.now)
    if rollout.candidate.copy_name not in seen.ready or not seen.is_routed:
        return _hold(rollout, seen, "the new copy is not ready")
    if rollout.is_compared and rollout.stable is not None and rollout.stable.copy_name not in seen.ready:
        return _hold(rollout, seen, "the old copy, to which a rollback would lead, is not ready")
    if seen.refusal is None:
        return _hold(rollout, seen, "the new copy is not compared with the old one")
    return _done(rollout, seen, Transition.SMOKE)


def _smoke(rollout: Rollout, seen: Seen) -> RolloutState:
    if rollout.state.is_done:
        return _await_permit(rollout, seen, Transition.WARMUP, _entering(rollout, seen, Phase.WARMUP))
    if seen.smoke is None:
        return _hold(rollout, seen, "golden requests are not answered")
    if not seen.smoke.passed:
        return roll_back(rollout, Outcome.REFUSED, seen.smoke.evidence, seen.now)
    return _done(rollout, seen, Transition.WARMUP)


def _warmup(rollout: Rollout, seen: Seen) -> RolloutState:
    following = Transition.SHADOW if rollout.is_compared else Transition.PROMOTE
    if not rollout.state.is_done:
        if not seen.is_warm:
            return _hold(rollout, seen, "warm-up requests are not answered")
        return _done(rollout, seen, following)
    if following is Transition.SHADOW:
        return _await_permit(rollout, seen, following, _at_weight(rollout, seen, Phase.SHADOW, 0))
    return _await_permit(rollout, seen, following, _at_weight(rollout, seen, Phase.PROMOTING, FULL_BP))


def _shadow(rollout: Rollout, seen: Seen) -> RolloutState:
    return _watched(rollout, seen, course.advance_to(rollout.config.weights[0]), _step_state(rollout, seen, 0))


def _step(rollout: Rollout, seen: Seen) -> RolloutState:
    following = rollout.state.step + 1
    if following < len(rollout.config.weights):
        transition = course.advance_to(rollout.config.weights[following])
        return _watched(rollout, seen, transition, _step_state(rollout, seen, following))
    return _watched(rollout, seen, Transition.PROMOTE, _at_weight(rollout, seen, Phase.PROMOTING, FULL_BP))


def _bake_full(rollout: Rollout, seen: Seen) -> RolloutState:
    return _watched(rollout, seen, Transition.BAKE, _draining(rollout, seen))


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
    return _at_full_weight(rollout, seen)


def _at_full_weight(rollout: Rollout, seen: Seen) -> RolloutState:
    state = rollout.state
    if rollout.stable is None:
        return _promoted(_fenced(state), "first release of the service")
    if rollout.is_direct:
        return _draining(rollout, seen)
    return replace(_entering(rollout, seen, Phase.BAKE_FULL), confirmed_bp=None)


def _draining(rollout: Rollout, seen: Seen) -> RolloutState:
    deadline = seen.now + rollout.config.drain_timeout_seconds
    return replace(rollout.state, phase=Phase.DRAIN_OLD, is_done=False, deadline=deadline, hold_reason="")


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
            deadline = seen.now + rollout.config.drain_timeout_seconds
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
    Phase.WARMUP: _warmup,
    Phase.SHADOW: _shadow,
    Phase.STEP: _step,
    Phase.PROMOTING: _promoting,
    Phase.BAKE_FULL: _bake_full,
    Phase.DRAIN_OLD: _drain_old,
    Phase.ROLLING_BACK: _rolling_back,
}


def _watched(rollout: Rollout, seen: Seen, transition: str, permitted: RolloutState) -> RolloutState:
    """Return the state after a look at a weight: back, on with a permit, or still here with the reason.

    Args:
        rollout: at a weight that is to be confirmed, or is.
        seen: the look.
        transition: what leads on from here.
        permitted: the state after that.
    """
    before, config = rollout.state, rollout.config
    if seen.reading is None:
        return _without_reading(rollout, seen)
    evidence = absorb(before.evidence, seen.reading, before, config)
    verdict = judge(evidence, seen.reading, before, config)
    looked = _with(rollout, evidence)
    if verdict.kind is VerdictKind.ROLLBACK:
        return roll_back(looked, verdict.outcome, verdict.reason, seen.now)
    if before.confirmed_bp is None:
        return _confirming(looked, seen)
    if verdict.kind is VerdictKind.HOLD or not seen.is_routed:
        reason = verdict.reason if verdict.kind is VerdictKind.HOLD else "the router does not have the weight"
        evidence = held(evidence, before.evidence, config)
        state = replace(before, hold_reason=_because(reason, seen), evidence=evidence)
        return _unless_late(rollout, state, seen, transition)
    return _going_on(looked, seen, transition, replace(permitted, evidence=evidence))


def _confirming(rollout: Rollout, seen: Seen) -> RolloutState:
    state = rollout.state
    if not seen.is_routed:
        return _hold(rollout, seen, "the router has not confirmed the weight")
    evidence = begin_weight(state.evidence, seen.now)
    return replace(state, confirmed_bp=state.canary_bp, deadline=None, hold_reason="", evidence=evidence)


def _going_on(rollout: Rollout, seen: Seen, transition: str, permitted: RolloutState) -> RolloutState:
    if rollout.state.is_done:
        return _await_permit(rollout, seen, transition, permitted)
    deadline = seen.now + course.patience(rollout, transition)
    return replace(rollout.state, is_done=True, hold_reason="", deadline=deadline)


def _without_reading(rollout: Rollout, seen: Seen) -> RolloutState:
    """Hold a look that could count nothing at all; too long a silence leads back."""
    state = rollout.state
    if state.confirmed_bp is None:
        return _hold(rollout, seen, "nothing could be counted")
    evidence = held(state.evidence.model_copy(update={"looked_at": seen.now}), state.evidence, rollout.config)
    if evidence.held_seconds >= rollout.config.max_hold_seconds:
        looked = _with(rollout, evidence)
        detail = f"no counts within {rollout.config.max_hold_seconds:g} s: {seen.problem}"
        return roll_back(looked, Outcome.NO_EVIDENCE, detail, seen.now)
    return replace(state, hold_reason=_because("nothing could be counted", seen), evidence=evidence)


def _unless_late(rollout: Rollout, state: RolloutState, seen: Seen, transition: str) -> RolloutState:
    """Return the state, or the way back when the phase was done and nobody permitted to go on in time."""
    if not state.is_done or course.required(rollout, transition) <= seen.permits or not _is_late(state, seen):
        return state
    wanted = course.wanted(rollout, transition, seen.permits)
    detail = f"{wanted} did not come within {course.patience(rollout, transition):g} s"
    return roll_back(replace(rollout, state=state), Outcome.ABORTED, detail, seen.now)


def _with(rollout: Rollout, evidence: Evidence) -> Rollout:
    return replace(rollout, state=replace(rollout.state, evidence=evidence))


def _drained(rollout: Rollout, seen: Seen, otherwise: str) -> RolloutState:
    """Wait for the last answers of the copy that leaves; then take it out of the route, so that it can be stopped."""
    state = rollout.state
    if seen.in_flight != 0 and not _is_late(state, seen):
        return replace(state, hold_reason=_because(otherwise, seen))
    deadline = seen.now + rollout.config.ready_timeout_seconds
    return replace(state, is_done=True, generation=state.generation + 1, deadline=deadline, hold_reason="")


def _await_permit(rollout: Rollout, seen: Seen, transition: str, permitted: RolloutState) -> RolloutState:
    if course.required(rollout, transition) <= seen.permits:
        return permitted
    wanted = course.wanted(rollout, transition, seen.permits)
    return _unless_late(rollout, replace(rollout.state, hold_reason=f"waiting for {wanted}"), seen, transition)


def _entering(rollout: Rollout, seen: Seen, phase: Phase) -> RolloutState:
    deadline = seen.now + rollout.config.ready_timeout_seconds
    return replace(rollout.state, phase=phase, is_done=False, deadline=deadline, hold_reason="")


def _at_weight(rollout: Rollout, seen: Seen, phase: Phase, weight_bp: int) -> RolloutState:
    return _fenced(replace(_entering(rollout, seen, phase), canary_bp=weight_bp, confirmed_bp=None))


def _step_state(rollout: Rollout, seen: Seen, step: int) -> RolloutState:
    weight_bp = FULL_BP * rollout.config.weights[step] // 100
    return replace(_at_weight(rollout, seen, Phase.STEP, weight_bp), step=step)


def _fenced(state: RolloutState) -> RolloutState:
    return replace(state, generation=state.generation + 1)


def _done(rollout: Rollout, seen: Seen, following: str) -> RolloutState:
    state = rollout.state
    deadline = seen.now + course.patience(rollout, following)
    return replace(state, is_done=True, confirmed_bp=state.canary_bp, deadline=deadline, hold_reason="")


def _hold(rollout: Rollout, seen: Seen, reason: str) -> RolloutState:
    reason = _because(reason, seen)
    if seen.is_hopeless:
        return roll_back(rollout, Outcome.REFUSED, reason, seen.now)
    if _is_late(rollout.state, seen):
        detail = f"{reason}, for {rollout.config.ready_timeout_seconds} s"
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


def _because(reason: str, seen: Seen) -> str:
    return f"{reason}: {seen.problem}" if seen.problem else reason


def _is_late(state: RolloutState, seen: Seen) -> bool:
    return state.deadline is not None and seen.now > state.deadline


def _number(version: Version | None) -> str:
    return "none" if version is None else str(version.number)
