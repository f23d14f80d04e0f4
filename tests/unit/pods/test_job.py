"""What a training on several nodes is made of."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from pipelines.errors import SpecError
from pipelines.pods.job import headless_service, job_name, training_job
from pipelines.pods.manifest import step_pod
from pipelines.settings import Settings
from pipelines.spec import ModelSpec, TrainingResources, parse_spec
from pipelines.step import RunInfo

INFO = RunInfo(model="docs-gpt", run_id="manual__2026-11-21T00:00:00+00:00", task_id="train", try_number=2)
SETTINGS = Settings(platform="kubernetes", store="s3://bucket/slipway", step_image="registry/slipway-trainer@sha256:aa")
NAME = job_name(INFO)
LABELS = {
    "app.kubernetes.io/managed-by": "slipway",
    "app.kubernetes.io/component": "training",
    "slipway.dev/model": "docs-gpt",
    "slipway.dev/run": NAME.split("-")[-2],
    "slipway.dev/task": "train",
    "slipway.dev/try": "2",
}


def made(**resources: Any) -> Any:
    """Return the Job of a training on four nodes with what a spec gives it."""
    spec = ModelSpec.model_validate(
        {"name": "docs-gpt", "training": {"ranks": 4}, "resources": {"train": {"nodes": 4, **resources}}}
    )
    given = spec.resources.train
    return training_job(["-m", "x"], INFO, given, SETTINGS, max_restarts=3, is_last_try=False)


def test_a_whole_job() -> None:
    job = made()
    template = job["spec"].pop("template")
    assert job == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": NAME,
            "namespace": "slipway",
            "labels": LABELS,
            "annotations": {"slipway.dev/run-id": INFO.run_id},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": 4,
            "parallelism": 4,
            "backoffLimit": 3,
            "activeDeadlineSeconds": 1209600,
            "suspend": False,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "base", "operator": "In", "values": [20]},
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
        },
    }
    assert template["metadata"] == {"labels": LABELS, "annotations": {"slipway.dev/run-id": INFO.run_id}}


@pytest.mark.parametrize(
    "body", [made(queue="gpus", gpus=8), headless_service(INFO, SETTINGS, job_uid="u-1")], ids=["job", "service"]
)
def test_the_api_knows_every_field(body: Any) -> None:
    kubernetes_validate.validate(body, "1.30", strict=True)


def test_its_pods_are_those_of_one_node_but_know_their_place() -> None:
    several = made()["spec"]["template"]["spec"]
    alone = step_pod(["-m", "x"], INFO, TrainingResources(), SETTINGS, is_last_try=False)["spec"]
    (container,), (single,) = several.pop("containers"), alone.pop("containers")
    del alone["activeDeadlineSeconds"]  # the Job has it
    assert several == {**alone, "subdomain": NAME}
    assert container["env"][: len(single["env"])] == single["env"]
    assert container["env"][len(single["env"]) :] == [
        {"name": "SLIPWAY_NODES", "value": "4"},
        {"name": "SLIPWAY_FIRST_NODE", "value": f"{NAME}-0.{NAME}"},
        {"name": "SLIPWAY_NODE_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    assert {**container, "env": []} == {**single, "env": []}


def test_a_queue_holds_the_job_back_until_there_is_room() -> None:
    job = made(queue="gpus")
    assert job["metadata"]["labels"] == {**LABELS, "kueue.x-k8s.io/queue-name": "gpus"}
    assert job["spec"]["suspend"] is True


def test_the_service_gives_names_to_the_pods_and_goes_with_the_job() -> None:
    assert headless_service(INFO, SETTINGS, job_uid="u-1") == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": "slipway",
            "labels": LABELS,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": "u-1"}],
        },
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": LABELS},
    }


def test_the_name_of_the_last_pod_of_a_job_fits() -> None:
    longest = RunInfo(model="m" * 40, run_id="r" * 250, task_id="train", try_number=999)
    assert len(f"{job_name(longest)}-1023") <= 63


def test_ranks_that_cannot_be_shared_out_are_refused() -> None:
    spec = {"name": "tiny", "training": {"ranks": 4, "batch_size": 4}, "resources": {"train": {"nodes": 3}}}
    with pytest.raises(SpecError, match=r"training\.ranks 4 must be a multiple of resources\.train\.nodes 3; try 3"):
        parse_spec(spec)
