"""The course of a rollout: its transitions, in order, and what each needs. DAG files read it, so it imports little."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pipelines.spec import RolloutConfig

if TYPE_CHECKING:
    from pipelines.ledger import Rollout


class Transition(StrEnum):
    """What a permit allows, besides the steps from weight to weight; also the name of the task that asks for it."""

    STAGE = "stage"
    SMOKE = "smoke"
    WARMUP = "warmup"
    SHADOW = "shadow"
    PROMOTE = "promote"
    BAKE = "bake"


class Approval(StrEnum):
    """What a person allows; also the name of the task that asks for it."""

    USERS = "approve_users"
    PROMOTION = "approve_promotion"


def advance_to(weight: int) -> str:
    """Return the transition to a weight in percent."""
    return f"advance_{weight:03d}"


def transitions(config: RolloutConfig) -> tuple[str, ...]:
    """Return every transition of a rollout in order: one task and one permit each."""
    before = (Transition.STAGE, Transition.SMOKE, Transition.WARMUP, Transition.SHADOW)
    return (*before, *map(advance_to, config.weights), Transition.PROMOTE, Transition.BAKE)


def approval_before(config: RolloutConfig, transition: str) -> Approval | None:
    """Return the approval that a transition needs besides its permit, if any."""
    if config.approval.before_users and transition == advance_to(config.weights[0]):
        return Approval.USERS
    if config.approval.before_promotion and transition == Transition.PROMOTE:
        return Approval.PROMOTION
    return None


def required(rollout: Rollout, transition: str) -> frozenset[str]:
    """Return the permits without which a transition is not made."""
    return frozenset({transition, *_approvals(rollout, transition)})


def patience(rollout: Rollout, transition: str) -> float:
    """Return for how many seconds a rollout waits for a transition's permits."""
    config = rollout.config
    return config.permit_timeout_seconds + config.approval.timeout_seconds * len(_approvals(rollout, transition))


def wanted(rollout: Rollout, transition: str, permits: frozenset[str]) -> str:
    """Return what a transition still waits for, in words."""
    for approval in _approvals(rollout, transition):
        if approval not in permits:
            return f"a person's approval ({approval})"
    return f"the permit to {transition}"


def _approvals(rollout: Rollout, transition: str) -> list[Approval]:
    """Return what people must agree to: without a comparison, promotion is the first user traffic too.

    A return to an old version is a person's order already.
    """
    if rollout.is_direct:
        return []
    reached = [transition]
    if transition == Transition.PROMOTE and not rollout.is_compared:
        reached.insert(0, advance_to(rollout.config.weights[0]))
    found = (approval_before(rollout.config, one) for one in reached)
    return [approval for approval in found if approval is not None]
