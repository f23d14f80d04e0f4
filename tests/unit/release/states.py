"""Rollouts in any state, and looks at them, in few words."""

from __future__ import annotations

from typing import Any

from pipelines.formats.headers import Traffic
from pipelines.ledger import Evidence, Phase, Rollout, RolloutState, Version
from pipelines.release.ports import Served
from pipelines.release.reading import Compared, Reading
from pipelines.release.rollout import Seen
from pipelines.spec import RolloutConfig
from pipelines.spec.serving import QualityConfig
from tests.unit.release.fakes import candidate

NOW = 1000.0
RULES = RolloutConfig(
    weights=(5, 25, 50),
    bake_seconds=60,
    bake_full_seconds=300,
    shadow_seconds=30,
    min_user_exposures=50,
    quality=QualityConfig(enabled=False),
    max_hold_seconds=3600,
    ready_timeout_seconds=180,
    permit_timeout_seconds=600,
    drain_timeout_seconds=60,
    unready_seconds=30,
    look_seconds=10,
)

ENOUGH = Evidence(
    looks=9,
    looked_at=NOW - 10,
    cursor="9",
    bets={"errors": (9.0,) * 3, "validity": (9.0,) * 3},
    since=NOW - 3000,
    exposures=1000,
)
"""Long enough at this weight, with enough users and evidence; all that a look can add is a reason to stay or go."""


def version(word: str, number: int, **fields: Any) -> Version:
    """Return a version whose artifacts are named after a word."""
    return Version(
        **{**candidate(word).model_dump(), "id": number, "number": number, "run_id": f"run-{word}", **fields}
    )


OLD, NEW = version("old", 1), version("new", 2)


def rollout(
    phase: Phase,
    *,
    stable: Version | None = OLD,
    config: RolloutConfig = RULES,
    is_direct: bool = False,
    override: str = "",
    **state: Any,
) -> Rollout:
    """Return a rollout from OLD to NEW in a phase."""
    fields: dict[str, Any] = {"generation": 5, "deadline": NOW + 60, **state}
    return Rollout(
        id=1,
        service="docs",
        run_id="run-2",
        attempt=1,
        forced=False,
        override=override,
        is_direct=is_direct,
        candidate=NEW,
        stable=stable,
        config=config,
        state=RolloutState(phase=phase, **fields),
        revision=1,
        opened_at=NOW - 3600,
        ended_at=None,
    )


def watched(phase: Phase, weight_bp: int = 0, **state: Any) -> Rollout:
    """Return a rollout at a confirmed weight that lacks nothing to go on."""
    fields = {"canary_bp": weight_bp, "confirmed_bp": weight_bp, "evidence": ENOUGH, "deadline": None, **state}
    return rollout(phase, **fields)


def reading(at: float = NOW, **fields: Any) -> Reading:
    """Return a reading without counts, unless fields say otherwise."""
    return Reading(**{"at": at, "cursor": "10", **fields})


def users(canary: int = 0, canary_bad: int = 0, stable: int = 0, stable_bad: int = 0) -> dict[Traffic, Compared]:
    """Return what users had of both arms."""
    return {Traffic.USER: Compared(canary=canary, canary_bad=canary_bad, stable=stable, stable_bad=stable_bad)}


def seen(*permits: str, now: float = NOW, **facts: Any) -> Seen:
    """Return a look at a world in which all is well; what it read is empty unless facts say otherwise."""
    well = {
        "is_routed": True,
        "ready": frozenset({OLD.copy_name, NEW.copy_name}),
        "refusal": "",
        "reading": reading(now),
    }
    return Seen(**{"now": now, "permits": frozenset(permits), **well, **facts})


def served(found: Version) -> Served:
    """Return what a user sees of a version."""
    return Served(found.bento_version, found.model.digest)
