"""A pod's status, as it follows from its containers."""

from __future__ import annotations

from collections.abc import Sequence

from tests.cluster.containers import Container
from tests.cluster.selectors import Object
from tests.cluster.store import now

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"


def restarts(policy: str, container: Container) -> bool:
    """Say whether a container that ended is started again."""
    return policy == "Always" or (policy == "OnFailure" and container.exit_code != 0)


def phase(policy: str, inits: Sequence[Container], mains: Sequence[Container]) -> str:
    """Return a pod's phase; an init container that ended well is never started again."""
    if any(container.exit_code != 0 for container in inits):
        failed = any(container.exit_code and not restarts(policy, container) for container in inits)
        return FAILED if failed else PENDING
    if all(container.exit_code is not None and not restarts(policy, container) for container in mains):
        return FAILED if any(container.exit_code for container in mains) else SUCCEEDED
    has_begun = any("waiting" not in container.state or container.restarts for container in mains)
    return RUNNING if has_begun else PENDING


def with_condition(conditions: Sequence[Object], kind: str, is_true: bool, **more: str) -> list[Object]:
    """Return a list of conditions in which one is as given; the time of its change stays if its value does."""
    wanted = {"type": kind, "status": str(is_true), **{key: value for key, value in more.items() if value}}
    before = next((row for row in conditions if row["type"] == kind), {})
    is_new = before.get("status") != wanted["status"]
    wanted["lastTransitionTime"] = now() if is_new else before["lastTransitionTime"]
    others = [row for row in conditions if row["type"] != kind]
    return sorted([*others, wanted], key=lambda row: str(row["type"]))


def conditions(
    before: Sequence[Object], phase: str, inits: Sequence[Container], mains: Sequence[Container]
) -> list[Object]:
    """Return the conditions that the kubelet sets; others stay."""
    is_initialized = all(container.exit_code == 0 for container in inits)
    is_ready = phase == RUNNING and all(container.is_ready for container in mains)
    reason = {SUCCEEDED: "PodCompleted", FAILED: "PodFailed"}.get(phase, "" if is_ready else "ContainersNotReady")
    rows = with_condition(before, "PodScheduled", True)
    rows = with_condition(
        rows, "Initialized", is_initialized, reason="" if is_initialized else "ContainersNotInitialized"
    )
    rows = with_condition(rows, "ContainersReady", is_ready, reason=reason)
    return with_condition(rows, "Ready", is_ready, reason=reason)
