"""What is to be done about a training on several nodes, as a table of Jobs and pods."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ExitCode, NoRoom, PodRefused, SlipwayError
from pipelines.pods.failures import Case
from pipelines.pods.trainings import Outlook, explain_job, explain_podless, lacks_pods, outlook, why_podless
from pipelines.settings import Settings
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
    about = {"name": "j", "namespace": "slipway"}
    return {"metadata": about, "spec": {"suspend": kind == "Suspended"}, "status": {"conditions": told}}


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
        pytest.param(job(), [RUNNING], 59, Outlook.GOES_ON, id="a-pod-is-still-made"),
        pytest.param(job(), [RUNNING], 60, Outlook.STUCK, id="a-pod-cannot-be-made"),
    ],
)
def test_outlook(found: Any, pods: list[Any], seconds: float, expected: Outlook) -> None:
    cases = [case(**status) for status in pods]
    lacking = {"slipway/j": seconds} if lacks_pods(found, cases, RESOURCES) else {}
    assert outlook(found, cases, {"slipway/p": seconds, **lacking}, RESOURCES) is expected


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


QUOTA = 'Error creating: pods "j-1" is forbidden: exceeded quota: few, requested: {}, used: cpu=7, limited: cpu=8'


@pytest.mark.parametrize(
    ("message", "kind", "match"),
    [
        pytest.param(QUOTA.format("cpu=2"), NoRoom, "when others have ended", id="quota-used-up"),
        pytest.param(QUOTA.format("cpu=9"), PodRefused, "more than the whole quota", id="quota-too-small"),
        pytest.param('pods "j-1" is forbidden: violates PodSecurity', PodRefused, "allows less", id="security"),
    ],
)
def test_pods_that_cannot_be_made_are_explained_by_the_jobs_events(
    message: str, kind: type[SlipwayError], match: str
) -> None:
    events = [
        {"reason": "FailedCreate", "message": "an older one"},
        {"reason": "FailedCreate", "message": message},
        {"reason": "SuccessfulCreate", "message": "Created pod: j-0"},
    ]
    error = explain_podless("train", job(), why_podless(events), Settings())
    assert type(error) is kind
    assert "train: make the pods of job slipway/j" in str(error)
    assert match in str(error)
    assert why_podless(events[2:]) == ""
