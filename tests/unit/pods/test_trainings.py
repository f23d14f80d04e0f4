"""What is to be done about a training on several nodes, as a table of Jobs and pods."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ExitCode
from pipelines.pods.failures import Case
from pipelines.pods.trainings import Outlook, explain_job, outlook
from pipelines.spec import TrainingResources

RESOURCES = TrainingResources(nodes=2, schedule_seconds=60, start_seconds=30, memory="8Gi")
PLACED = [{"type": "PodScheduled", "status": "True"}]
RUNNING: dict[str, Any] = {"phase": "Running", "conditions": PLACED}
UNPLACED: dict[str, Any] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}
STARTING: dict[str, Any] = {"phase": "Pending", "conditions": PLACED}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "base", "state": state}]}


NO_IMAGE = {**STARTING, **container(waiting={"reason": "ErrImagePull", "message": "manifest unknown"})}
OOM = {"phase": "Failed", **container(terminated={"exitCode": 137, "reason": "OOMKilled"})}
KILLED = {"phase": "Failed", **container(terminated={"exitCode": 137, "reason": "Error", "message": "the rank died"})}


def case(**status: Any) -> Case:
    return Case("train", {"metadata": {"name": "p", "namespace": "slipway"}, "status": status}, (), RESOURCES)


def job(kind: str = "", reason: str = "", message: str = "") -> dict[str, Any]:
    told = [{"type": kind, "status": "True", "reason": reason, "message": message}] if kind else []
    return {"metadata": {"name": "j", "namespace": "slipway"}, "status": {"conditions": told}}


@pytest.mark.parametrize(
    ("found", "pods", "seconds", "expected"),
    [
        pytest.param(job(), [RUNNING, RUNNING], 0, Outlook.GOES_ON, id="all-run"),
        pytest.param(job(), [], 0, Outlook.GOES_ON, id="no-pods-yet"),
        pytest.param(job("Suspended"), [], 1e6, Outlook.GOES_ON, id="queued"),
        pytest.param(job(), [RUNNING, KILLED], 0, Outlook.GOES_ON, id="one-is-being-replaced"),
        pytest.param(job("Complete"), [], 0, Outlook.ENDED, id="complete"),
        pytest.param(job("Failed"), [KILLED], 0, Outlook.ENDED, id="failed"),
        pytest.param(None, [], 0, Outlook.ENDED, id="gone"),
        pytest.param(job(), [RUNNING, OOM], 0, Outlook.ENDED, id="more-memory-than-it-may-have"),
        pytest.param(job(), [UNPLACED, RUNNING], 59, Outlook.GOES_ON, id="no-node-yet"),
        pytest.param(job(), [UNPLACED, RUNNING], 60, Outlook.STUCK, id="no-node"),
        pytest.param(job(), [STARTING, RUNNING], 29, Outlook.GOES_ON, id="starting"),
        pytest.param(job(), [STARTING, RUNNING], 30, Outlook.STUCK, id="does-not-start"),
        pytest.param(job(), [NO_IMAGE, RUNNING], 0, Outlook.STUCK, id="no-such-image"),
    ],
)
def test_outlook(found: Any, pods: list[Any], seconds: float, expected: Outlook) -> None:
    cases = [case(**status) for status in pods]
    assert outlook(found, cases, {"slipway/p": seconds}, RESOURCES) is expected


@pytest.mark.parametrize(
    ("found", "pods", "match", "retryable"),
    [
        pytest.param(
            job("Failed", "DeadlineExceeded"), [], "Job slipway/j took longer than its deadline", False, id="deadline"
        ),
        pytest.param(job("Failed", "BackoffLimitExceeded"), [KILLED, RUNNING], "the rank died", True, id="a-rank-died"),
        pytest.param(job(), [KILLED, OOM], "OOMKilled", False, id="what-a-retry-cannot-help-comes-first"),
        pytest.param(None, [], "its Job is gone: somebody deleted it; it is tried again", True, id="gone"),
        pytest.param(job("Failed", "Any", "too bad"), [], "its Job ended: too bad; it is tried", True, id="no-pods"),
        pytest.param(job("Complete"), [], "its Job ended", True, id="no-receipt"),
    ],
)
def test_explanations(found: Any, pods: list[Any], match: str, retryable: bool) -> None:
    cases = [case(**status) for status in pods]
    error = explain_job("train", found, cases, RESOURCES, gave_up=False)
    assert match in str(error)
    assert (error.exit_code is not ExitCode.REFUSED) is retryable


def test_a_pod_that_does_not_start_is_explained_when_it_is_given_up() -> None:
    error = explain_job("train", job(), [case(**UNPLACED)], RESOURCES, gave_up=True)
    assert "found no node within 60 s" in str(error)
