"""Why a pod failed, as a table of statuses and events."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ExitCode, NoRoom, PodLost, PodRefused, PodTakenAway, SlipwayError
from pipelines.pods.failures import Case, explain, gone, most_gpus
from pipelines.runner import Ending, StepFailed
from pipelines.spec import TrainingResources

RESOURCES = TrainingResources(gpus=8)
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
PLACED = {"type": "PodScheduled", "status": "True"}


def event(reason: str, message: str, kind: str = "Warning") -> dict[str, Any]:
    return {"type": kind, "reason": reason, "message": message}


def told(status: dict[str, Any], *events: Any, gpus: int | None = None, gave_up: bool = True) -> SlipwayError | None:
    """Return the error of a training's pod with a status."""
    pod = {"metadata": {"name": "p", "namespace": "slipway"}, "status": status}
    return explain(Case("train", pod, tuple(events), RESOURCES, gpus), gave_up=gave_up)


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "base", "state": state}]


def failed(exit_code: int = 1, reason: str = "Error", message: str = "", **more: Any) -> dict[str, Any]:
    """Return the status of a pod whose container ended."""
    ended = {"exitCode": exit_code, "reason": reason, "message": message}
    return {"phase": "Failed", "containerStatuses": container(terminated=ended), **more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Return the status of a pod whose container does not start."""
    state = container(waiting={"reason": reason, "message": message})
    return {"phase": "Pending", "conditions": [PLACED], "containerStatuses": state}


def unplaced(message: str) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [{**UNPLACED, "message": message}]}


def disrupted(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}


NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
MOUNT = event("FailedMount", 'MountVolume.SetUp failed for volume "v" : configmap "words" not found')

TAKEN_AWAY = [
    pytest.param(failed(143, **disrupted("PreemptionByScheduler")), (), "preempted", id="preempted"),
    pytest.param(failed(143, **disrupted("EvictionByEvictionAPI")), (), "being drained", id="drained"),
    pytest.param(failed(143, **disrupted("DeletionByTaintManager")), (), "got a taint", id="tainted"),
    pytest.param(failed(143, **disrupted("DeletionByPodGC")), (), "node is gone", id="node-gone"),
    pytest.param(failed(10, **disrupted("TerminationByKubelet")), (), "shuts down or ran short", id="ended-by-node"),
    pytest.param(failed(137, **disrupted("SomethingNew")), (), "was disrupted", id="unknown-disruption"),
    pytest.param(failed(143, reason="Terminated") | {"reason": "Terminated"}, (), "shuts down", id="node-shutdown"),
    pytest.param(
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        (),
        "evicted, for its node ran short: The node was low",
        id="evicted-by-pressure",
    ),
    pytest.param(
        {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"},
        (),
        "turned away by its node: Node didn't have enough",
        id="turned-away",
    ),
    pytest.param({"phase": "Unknown"}, (), "node does not answer", id="node-silent"),
    pytest.param(failed(137, "ContainerStatusUnknown"), (), "does not know what became", id="status-unknown"),
]

FULL = [
    pytest.param(
        unplaced("0/3 nodes are available: 3 Insufficient cpu."), (), "found no node.*Insufficient", id="full"
    ),
    pytest.param(unplaced(NO_GPU), (), r"found no node within 900 s.*nvidia.com/gpu", id="gpus-busy-or-unknown"),
]

RETRIED = [
    pytest.param({"phase": "Failed"}, (), "failed without a word", id="nothing-known"),
    pytest.param(
        waiting("ErrImagePull", "dial tcp: i/o timeout"), (), "cannot pull its image.*i/o timeout", id="registry-down"
    ),
    pytest.param(waiting("ContainerCreating"), (), "did not start within 600 s", id="slow-start"),
    pytest.param(waiting("CreateContainerError", "context deadline exceeded"), (), "did not start", id="slow-runtime"),
]

REFUSED = [
    pytest.param(failed(137, "OOMKilled"), (), "4Gi of memory .OOMKilled.*raise resources.train.memory", id="oom"),
    pytest.param(
        failed(137, "OOMKilled", **disrupted("TerminationByKubelet")), (), "OOMKilled", id="oom-before-disruption"
    ),
    pytest.param(
        {"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than"},
        (),
        "deadline of 1209600 s; raise resources.train.deadline_seconds",
        id="deadline",
    ),
    pytest.param(
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": 'Usage of EmptyDir volume "home" exceeds the limit "20Gi".',
        },
        (),
        "EmptyDir.*raise resources.train.disk",
        id="disk-full",
    ),
    pytest.param(
        failed(128, "StartError", 'exec: "python": executable file not found in $PATH'),
        (),
        "could not start its command.*SLIPWAY_STEP_IMAGE",
        id="no-python",
    ),
    pytest.param(
        waiting("ImagePullBackOff", 'Back-off pulling image "x"'),
        (event("Failed", 'Failed to pull image "x": not found'),),
        "cannot pull its image.*SLIPWAY_STEP_IMAGE",
        id="unknown-image",
    ),
    pytest.param(waiting("ErrImagePull", "401 Unauthorized"), (), "SLIPWAY_IMAGE_PULL_SECRETS", id="private-image"),
    pytest.param(waiting("InvalidImageName", "couldn't parse"), (), "SLIPWAY_STEP_IMAGE", id="no-image-name"),
    pytest.param(waiting("ErrImageNeverPull", "is not present"), (), "preload", id="never-pulled"),
    pytest.param(
        waiting("CreateContainerConfigError", "couldn't find key token in Secret slipway/hf"),
        (),
        "key token in Secret slipway/hf.*resources.train.secrets",
        id="missing-secret-key",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", 'secret "bucket" not found'), (), "SLIPWAY_STORE_SECRET", id="no-secret"
    ),
    pytest.param(waiting("ContainerCreating"), (MOUNT,), 'configmap "words" not found.*volumes', id="no-config-map"),
    pytest.param(
        unplaced('persistentvolumeclaim "corpus" not found'), (), '"corpus" not found.*train.volumes', id="no-claim"
    ),
]


@pytest.mark.parametrize(
    ("kind", "status", "events", "match"),
    [
        pytest.param(kind, *param.values, id=param.id)
        for kind, params in ((PodTakenAway, TAKEN_AWAY), (NoRoom, FULL), (PodLost, RETRIED))
        for param in params
    ],
)
def test_what_may_pass_is_tried_again_as_soon_as_it_may_have_passed(
    kind: type[SlipwayError], status: dict[str, Any], events: tuple[Any, ...], match: str
) -> None:
    error = told(status, *events)
    assert type(error) is kind
    assert error.retryable
    with pytest.raises(PodLost, match=f"train: pod slipway/p .*{match}"):
        raise error


@pytest.mark.parametrize(("status", "events", "match"), REFUSED)
def test_what_is_wrongly_asked_for_fails_at_once(status: dict[str, Any], events: tuple[Any, ...], match: str) -> None:
    error = told(status, *events)
    with pytest.raises(PodRefused, match=f"train: pod slipway/p .*{match}"):
        raise error or AssertionError("no error")


@pytest.mark.parametrize(
    ("gpus", "events", "kind", "match"),
    [
        pytest.param(0, (), PodRefused, "asks for 8 nvidia.com/gpu, and no node has more than 0", id="none"),
        pytest.param(4, (), PodRefused, "no node has more than 4.*lower resources.train.gpus", id="too-few"),
        pytest.param(8, (), NoRoom, "found no node", id="busy"),
        pytest.param(0, (event("TriggeredScaleUp", "0->1", "Normal"),), NoRoom, "found no node", id="being-added"),
        pytest.param(0, (event("Nominated", "a claim", "Normal"),), NoRoom, "found no node", id="by-karpenter"),
    ],
)
def test_gpus_that_no_node_has_are_told_from_busy_ones(
    gpus: int, events: tuple[Any, ...], kind: type[SlipwayError], match: str
) -> None:
    with pytest.raises(kind, match=match):
        raise told(unplaced(NO_GPU), *events, gpus=gpus) or AssertionError("no error")


@pytest.mark.parametrize(
    ("status", "ending", "exit_code"),
    [
        pytest.param(failed(20, message="...\nerror: gate refused"), Ending.REFUSED, ExitCode.REFUSED, id="refused"),
        pytest.param(failed(10, message="error: store away"), Ending.RETRY, ExitCode.RETRY, id="retry"),
        pytest.param(failed(1, message="Traceback"), Ending.UNEXPECTED, ExitCode.UNEXPECTED, id="unexpected"),
        pytest.param(failed(137), Ending.INTERRUPTED, ExitCode.RETRY, id="killed"),
        pytest.param(
            failed(20, message="error: no", **disrupted("PreemptionByScheduler")),
            Ending.REFUSED,
            ExitCode.REFUSED,
            id="refused-and-then-preempted",
        ),
    ],
)
def test_what_the_step_itself_said_counts(status: dict[str, Any], ending: Ending, exit_code: ExitCode) -> None:
    error = told(status)
    assert isinstance(error, StepFailed)
    assert (error.ending, error.exit_code) == (ending, exit_code)


def test_the_message_is_the_steps_own_and_has_the_events() -> None:
    error = told(
        failed(20, message="log\nerror: gate perplexity refused"), event("BackOff", "b"), event("BackOff", "b")
    )
    assert str(error) == "train: refused (exit status 20): gate perplexity refused\n    event BackOff: b"


@pytest.mark.parametrize(
    ("status", "gave_up"),
    [
        pytest.param({"phase": "Succeeded"}, True, id="succeeded"),
        pytest.param({"phase": "Running", "containerStatuses": container(running={})}, True, id="running"),
        pytest.param(unplaced(NO_GPU), False, id="pending-and-still-waited-for"),
    ],
)
def test_no_failure(status: dict[str, Any], gave_up: bool) -> None:
    assert told(status, gave_up=gave_up) is None


def test_a_pod_that_is_gone_has_its_events_left() -> None:
    error = gone("train", "slipway/p", [event("Preempted", "by another", "Normal")])
    assert error.retryable
    assert str(error).endswith("event Preempted: by another")


def test_the_most_gpus_of_one_node() -> None:
    nodes = [{"status": {"allocatable": {"nvidia.com/gpu": "4"}}}, {"status": {}}]
    assert most_gpus(nodes, "nvidia.com/gpu") == 4
    assert most_gpus(nodes, "amd.com/gpu") == 0
