"""What the ledger holds, as plain immutable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import Field

from pipelines.artifacts import ArtifactRef
from pipelines.ledger.evidence import Evidence
from pipelines.spec import Frozen, RolloutConfig


class Phase(StrEnum):
    """Where a rollout is."""

    QUEUED = "queued"
    STAGE = "stage"
    SMOKE = "smoke"
    WARMUP = "warmup"
    SHADOW = "shadow"
    STEP = "step"
    PROMOTING = "promoting"
    BAKE_FULL = "bake_full"
    DRAIN_OLD = "drain_old"
    PROMOTED = "promoted"
    NOT_NEEDED = "not_needed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


FINAL = frozenset({Phase.PROMOTED, Phase.NOT_NEEDED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED})


class Outcome(StrEnum):
    """Why a rollout ended, or is ending, as it does."""

    NONE = ""
    PROMOTED = "promoted"
    ALREADY_SERVING = "already_serving"
    SUPERSEDED = "superseded"
    WORSE = "worse"
    NO_EVIDENCE = "no_evidence"
    UNHEALTHY = "unhealthy"
    REFUSED = "refused"
    ABORTED = "aborted"
    DEAD_MAN = "dead_man"


class Candidate(Frozen):
    """What a run wants to release: the artifacts of one version."""

    service: str
    """Name of the service, which is the model's."""

    bento: ArtifactRef
    tag: str
    """Bento tag, `name:version`."""

    model: ArtifactRef
    evaluation: ArtifactRef
    evaluated_against: ArtifactRef | None = None
    """Model that was champion when this one was evaluated; None: there was none."""

    numbers: dict[str, float] = Field(default_factory=dict)
    """What the evaluation found, for people."""

    spec: ArtifactRef
    rollout: RolloutConfig = RolloutConfig()
    """The spec's rules for the release; kept here so that deciding needs no store."""

    is_idempotent: bool = False
    """Whether a request may be sent again after a failed attempt."""

    silence_seconds: int = 120
    """How long a copy may be silent in the middle of an answer."""


class Version(Candidate):
    """A candidate with its number in the ledger; never changed."""

    id: int
    number: int
    run_id: str

    @property
    def copy_name(self) -> str:
        """Name of this version's live copy."""
        return f"{self.service}-{self.bento.short}"

    @property
    def bento_version(self) -> str:
        """Version part of the bento tag, which the copy reports with every response."""
        return self.tag.rpartition(":")[2]


@dataclass(frozen=True)
class RolloutState:
    """The part of a rollout that changes."""

    phase: Phase = Phase.QUEUED
    is_done: bool = False
    """The phase's own work is finished; the next phase waits for its permit, or for what is left to be stopped."""

    step: int = 0
    """Index of the weight among the spec's, in the phase `step`."""

    generation: int = 0
    """Fencing token of the desired weight: a router refuses an older one."""

    canary_bp: int = 0
    """Desired weight of the candidate, in basis points of user traffic."""

    confirmed_bp: int | None = None
    """Weight that the router was last seen to have; None: the desired one is not confirmed."""

    deadline: float | None = None
    """When this phase, or the wait for a permit, is given up, by the ledger's clock."""

    hold_reason: str = ""
    outcome: Outcome = Outcome.NONE
    detail: str = ""
    """The outcome's evidence, for people."""

    evidence: Evidence = field(default_factory=Evidence)
    """What the looks have shown; written in the same transaction as the state, or a look could count twice."""

    @property
    def is_final(self) -> bool:
        """Say whether nothing can change any more."""
        return self.phase in FINAL

    @property
    def is_active(self) -> bool:
        """Say whether the rollout holds its service's lock."""
        return not self.is_final and self.phase is not Phase.QUEUED


@dataclass(frozen=True)
class Rollout:
    """One act of replacing a service's stable version."""

    id: int
    service: str
    run_id: str
    attempt: int
    forced: bool
    """Released again although it was in production earlier."""

    override: str
    """Why a person lets a version try again that was rolled back as worse or refused; empty: nobody does."""

    is_direct: bool
    """Straight to all users after the golden requests: the return to a version that was in production."""

    candidate: Version
    stable: Version | None
    """Champion when the rollout got the lock; None: the service's first release."""

    config: RolloutConfig
    """The rules of this release, frozen when it was opened."""

    state: RolloutState
    revision: int
    opened_at: float
    """By the ledger's clock, as all times."""

    ended_at: float | None
    """None: it is not over."""

    @property
    def is_compared(self) -> bool:
        """Say whether candidate and stable are compared under traffic."""
        return self.stable is not None and not self.is_direct

    def __str__(self) -> str:
        return f"rollout {self.id} of {self.service} (run {self.run_id}, attempt {self.attempt})"


@dataclass(frozen=True)
class Service:
    """An endpoint and the version in production."""

    name: str
    port: int | None
    champion: Version | None
    generation: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that the ledger knows about a service's present, read at one moment."""

    now: float
    service: Service
    rollout: Rollout | None
    """The rollout that holds the lock, else the oldest in the queue."""

    permits: frozenset[str]


def as_facts(state: RolloutState) -> dict[str, Any]:
    """Return what an event says about a state; times are left out, the event has its own."""
    return {
        "phase": str(state.phase),
        "is_done": state.is_done,
        "step": state.step,
        "generation": state.generation,
        "canary_bp": state.canary_bp,
        "confirmed_bp": state.confirmed_bp,
        "hold_reason": state.hold_reason,
        "outcome": str(state.outcome),
        "detail": state.detail,
    }
