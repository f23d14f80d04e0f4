"""Rollouts in words and numbers for people: the command line, the page in Airflow's UI and `make run` show the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines import ledger
from pipelines.artifacts import ArtifactRef
from pipelines.formats.headers import Traffic
from pipelines.ledger import Event, Rollout
from pipelines.release import orders
from pipelines.release.audit import Look
from pipelines.release.endpoints import endpoint
from pipelines.release.evidence import Standing, exp, standing
from pipelines.release.ports import Arm
from pipelines.settings import read_settings
from pipelines.spec import Frozen

NUM_EARLIER = 5


class RolloutFacts(Frozen):
    """A rollout as people see it."""

    id: int
    run_id: str
    attempt: int
    version: int
    replaces: int | None
    phase: str
    weight: float
    """Percent of user traffic."""

    outcome: str
    detail: str
    waits_for: str
    weights: tuple[int, ...]
    """Percent of user traffic at each step before 100."""

    is_direct: bool
    """A return to an old version, without analysis."""

    opened_at: float
    ended_at: float | None
    evaluation: ArtifactRef
    standing: Standing
    exposures: dict[str, tuple[int, int]]
    """Exposures and bad ones by `arm/traffic`."""

    def line(self) -> str:
        """Return where the rollout stands, on one line."""
        where = f"rollout {self.id}  version {self.version}  {self.phase}  {self.weight:g} %"
        users = "  ".join(f"{arm} {bad}/{n} bad" for arm in Arm for n, bad in [_sum(self.exposures, arm)] if n)
        numbers = f"E {exp(self.standing.log_e)}/{exp(self.standing.log_limit)}"
        evidence = f"evidence {exp(self.standing.log_evidence)}/{exp(self.standing.log_needed)}"
        return "  ".join(part for part in (where, users, numbers, evidence, self.waits_for or self.detail) if part)


class Point(Frozen):
    """Where a rollout stood after one look."""

    seq: int
    """Place of the look's event in its service's chain."""

    at: float
    phase: str
    weight: float
    """Percent of user traffic."""

    log_e: float
    log_evidence: float


class Present(Frozen):
    """What serves, what is being released, and what was."""

    service: str
    endpoint: str
    serving: int | None
    digest: str
    running: RolloutFacts | None
    earlier: tuple[RolloutFacts, ...]
    returns: tuple[int, ...]
    """Versions that were in production and do not serve, the latest first: what a rollback may lead to."""

    def text(self) -> str:
        """Return all of it for a terminal."""
        serving = "nothing serves" if self.serving is None else f"version {self.serving} ({self.digest[:12]}) serves"
        lines = [f"{self.service}: {serving} at {self.endpoint or 'no endpoint yet'}"]
        if self.running is not None:
            lines.append(f"  {self.running.line()}")
        for rollout in self.earlier:
            detail = f": {rollout.detail}" if rollout.detail else ""
            lines.append(
                f"  rollout {rollout.id}  version {rollout.version}  {rollout.outcome or rollout.phase}{detail}"
            )
        return "\n".join(lines)


def present(url: str, service: str, num_earlier: int = NUM_EARLIER) -> Present:
    """Return a service's present from the ledger.

    Args:
        url: the ledger.
        service: whose.
        num_earlier: rollouts that are over, at most.

    Raises:
        LedgerUnavailable: when the ledger is away.
    """
    snapshot = ledger.snapshot(url, service)
    rollouts = ledger.list_rollouts(url, service, num_earlier + 1)
    champion = None if snapshot is None else snapshot.service.champion
    port = None if snapshot is None else snapshot.service.port
    running = None if snapshot is None else snapshot.rollout
    return Present(
        service=service,
        endpoint="" if port is None else endpoint(read_settings(), service, port),
        serving=None if champion is None else champion.number,
        digest="" if champion is None else champion.model.digest,
        running=None if running is None else facts(running),
        earlier=tuple(facts(rollout) for rollout in rollouts if rollout.state.is_final)[:num_earlier],
        returns=tuple(version.number for version in orders.returns(url, service)),
    )


def curve(url: str, service: str, rollout_id: int, after: int = 0) -> tuple[Point, ...]:
    """Return how a rollout's numbers went, look by look.

    Args:
        url: the ledger.
        service: the rollout's.
        rollout_id: whose numbers.
        after: only looks with a higher `seq`; a look that was read never changes.

    Raises:
        LedgerUnavailable: when the ledger is away.
    """
    return tuple(
        Point(
            seq=event.seq,
            at=event.at,
            phase=event.facts["phase"],
            weight=event.facts["canary_bp"] / 100,
            log_e=event.facts["standing"]["log_e"],
            log_evidence=event.facts["standing"]["log_evidence"],
        )
        for event in ledger.events(url, service, rollout=rollout_id, after=after)
        if "standing" in event.facts
    )


def facts(rollout: Rollout) -> RolloutFacts:
    """Return a rollout as people see it."""
    state = rollout.state
    return RolloutFacts(
        id=rollout.id,
        run_id=rollout.run_id,
        attempt=rollout.attempt,
        version=rollout.candidate.number,
        replaces=None if rollout.stable is None else rollout.stable.number,
        phase=state.phase,
        weight=state.canary_bp / 100,
        outcome=state.outcome,
        detail=state.detail,
        waits_for=state.hold_reason,
        weights=rollout.config.weights,
        is_direct=rollout.is_direct,
        opened_at=rollout.opened_at,
        ended_at=rollout.ended_at,
        evaluation=rollout.candidate.evaluation,
        standing=standing(state.evidence, rollout.config),
        exposures=state.evidence.totals,
    )


def look_facts(look: Look) -> dict[str, Any]:
    """Return one look as plain JSON."""
    return {
        "at": look.at,
        "phase": look.state.phase,
        "weight": look.state.canary_bp / 100,
        "reading": look.reading.model_dump(mode="json", exclude={"meters"}, exclude_defaults=True),
        "standing": look.standing.model_dump(),
        "hold_reason": look.state.hold_reason,
        "outcome": look.state.outcome,
    }


def explained(rollout: Rollout, events: Sequence[Event], looks: Sequence[Look]) -> str:
    """Return a rollout's story: its events, and every look with the numbers that were computed again."""
    computed = iter(looks)
    lines = [f"{rollout}: version {rollout.candidate.number}, {rollout.state.phase} {rollout.state.outcome}".rstrip()]
    for event in events:
        look = next(computed) if "reading" in event.facts else None
        why = event.facts.get("hold_reason") or event.facts.get("detail") or event.facts.get("transition") or ""
        numbers = "" if look is None else _numbers(look)
        weight = f"{event.facts['canary_bp'] / 100:g} %" if "canary_bp" in event.facts else ""
        lines.append(f"{_clock(event.at)}  {event.kind:<14} {weight:>6}  {numbers}{why}".rstrip())
    lines.append(
        f"{len(looks)} looks computed again from their counts: every verdict follows; the chain of events is whole"
    )
    return "\n".join(lines)


def _numbers(look: Look) -> str:
    found = look.standing
    counted = ", ".join(
        f"{traffic} canary {seen.canary_bad}/{seen.canary} stable {seen.stable_bad}/{seen.stable}"
        for traffic, seen in sorted(look.reading.failures.items())
    )
    return f"E {exp(found.log_e)}  evidence {exp(found.log_evidence)}  [{counted}]  "


def _sum(exposures: dict[str, tuple[int, int]], arm: Arm) -> tuple[int, int]:
    """Return an arm's exposures and bad ones; what mirrored requests are compared with are stable's users again."""
    mine = [
        counts
        for key, counts in exposures.items()
        if key.startswith(f"{arm}/") and key != f"{Arm.STABLE}/{Traffic.SHADOW}"
    ]
    return sum(n for n, _ in mine), sum(bad for _, bad in mine)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).strftime("%H:%M:%S")
