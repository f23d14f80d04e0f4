"""The audit of a rollout: what its events hold of every look, and the same verdicts computed again from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.errors import SlipwayError
from pipelines.ledger import Event, Evidence, Phase, Rollout, RolloutState, as_facts
from pipelines.release.evidence import Standing, learn, standing
from pipelines.release.reading import Reading
from pipelines.release.rollout import WATCHED, Seen, advance


class AuditBroken(SlipwayError):
    """An event's verdict does not follow from what it says was read."""


@dataclass(frozen=True)
class Look:
    """One look, as it was written down and computed again."""

    at: float
    state: RolloutState
    """After the look."""

    reading: Reading
    """Empty when nothing could be counted."""

    standing: Standing


def facts_of_admission(state: RolloutState) -> dict[str, Any]:
    """Return what the event of a rollout's beginning holds besides the state: evidence from an earlier trial."""
    inherited = state.evidence.model_dump(mode="json", exclude_defaults=True)
    return {"inherited": inherited} if inherited else {}


def facts_of_look(rollout: Rollout, seen: Seen, after: RolloutState) -> dict[str, Any]:
    """Return what the event of a look holds besides the state: enough to come to the same state again."""
    read = seen.reading and seen.reading.model_dump(mode="json", exclude={"meters"}, exclude_defaults=True)
    if rollout.state.phase not in WATCHED:
        return {"learned": read} if read else {}
    return {
        "before": _facts_before(rollout.state),
        "reading": read,
        "seen": {
            "now": seen.now,
            "permits": sorted(seen.permits),
            "is_routed": seen.is_routed,
            "problem": seen.problem,
            "is_hopeless": seen.is_hopeless,
        },
        "standing": standing(after.evidence, rollout.config).model_dump(),
    }


def replayed(rollout: Rollout, events: Iterable[Event]) -> Iterator[Look]:
    """Yield a rollout's looks, each computed again from its event.

    Args:
        rollout: whose rules count.
        events: of its service, oldest first.

    Raises:
        AuditBroken: when a state that was written down does not follow from what was read.
    """
    evidence = Evidence()
    for event in events:
        if event.rollout != rollout.id:
            continue
        if "inherited" in event.facts:
            evidence = Evidence.model_validate(event.facts["inherited"])
        if "learned" in event.facts:
            evidence = learn(evidence, Reading.model_validate(event.facts["learned"]), rollout.config)
        if "reading" in event.facts:
            look = _again(rollout, event, evidence)
            evidence = look.state.evidence
            yield look


def _again(rollout: Rollout, event: Event, evidence: Evidence) -> Look:
    facts = event.facts
    before = _state(facts["before"], evidence)
    reading = None if facts["reading"] is None else Reading.model_validate(facts["reading"])
    asked = {**facts["seen"], "permits": frozenset(facts["seen"]["permits"])}
    seen = Seen(**asked, reading=reading)
    after = advance(replace(rollout, state=before), seen)
    found = standing(after.evidence, rollout.config)
    told = Standing.model_validate(facts["standing"])
    computed = as_facts(after)
    written = {name: facts[name] for name in computed}
    if found != told or written != computed:
        raise AuditBroken(
            f"{rollout}: event {event.seq} says {written} at {told}, but its counts give {computed} at {found}"
        )
    nothing = Reading(at=seen.now, cursor=None, hold=after.hold_reason)
    return Look(at=event.at, state=after, reading=reading or nothing, standing=found)


def _facts_before(state: RolloutState) -> dict[str, Any]:
    return {
        "phase": state.phase,
        "is_done": state.is_done,
        "step": state.step,
        "generation": state.generation,
        "canary_bp": state.canary_bp,
        "confirmed_bp": state.confirmed_bp,
        "deadline": state.deadline,
    }


def _state(facts: dict[str, Any], evidence: Evidence) -> RolloutState:
    values = {**facts, "phase": Phase(facts["phase"])}
    return RolloutState(**values, evidence=evidence)
