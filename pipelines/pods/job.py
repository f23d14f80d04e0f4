"""A training on several nodes, or in a queue: an Indexed Job, and the headless Service that gives its pods names.

All pods run the same command as a single one would; each learns from its index which ranks it has. The first one
publishes the result, so the training is done when its receipt is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines import labels
from pipelines.errors import ExitCode
from pipelines.pods.manifest import CONTAINER, step_pod
from pipelines.settings import Settings
from pipelines.spec import TrainingResources
from pipelines.step import RunInfo
from pipelines.training import nodes

Body = dict[str, Any]

_MODEL_LENGTH = 30
"""A pod's host name is that of its Job and its index, and has at most 63 characters."""


def job_name(info: RunInfo) -> str:
    """Return the name of a try's Job and Service: the same for the same try, so that they are never made twice."""
    model = info.model[:_MODEL_LENGTH].rstrip("-")
    return f"{model}-{info.task_id}-{labels.run_digest(info.run_id)}-{info.try_number}"


def job_labels(info: RunInfo) -> dict[str, str]:
    """Return the labels of a try's Job, its pods and its Service."""
    return labels.step_labels(info.model, info.run_id, info.task_id, info.try_number, component=labels.TRAINING)


def training_job(
    arguments: Sequence[str],
    info: RunInfo,
    resources: TrainingResources,
    settings: Settings,
    *,
    max_restarts: int,
    is_last_try: bool,
) -> Body:
    """Return the Job of one try of a training.

    A pod that was taken away is replaced, whatever else happened; one that ended by itself as often as ranks are
    restarted. A refusal ends all: it would be the same again.

    Args:
        arguments: of `python`, as `pipelines.step.command` gives them.
        info: which try of what.
        resources: what the spec gives the training.
        settings: of this installation.
        max_restarts: how often a pod that failed is replaced.
        is_last_try: whether it must not be interrupted any more.
    """
    name = job_name(info)
    pod = step_pod(arguments, info, resources, settings, is_last_try=is_last_try)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.kubernetes_namespace,
            "labels": {**job_labels(info), **({labels.QUEUE: resources.queue} if resources.queue else {})},
            "annotations": {labels.RUN_ID: info.run_id},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": resources.nodes,
            "parallelism": resources.nodes,
            "backoffLimit": max_restarts,
            "activeDeadlineSeconds": resources.deadline_seconds,
            "podFailurePolicy": _failure_policy(),
            "suspend": resources.queue is not None,  # Kueue lets it begin
            "template": {
                "metadata": {"labels": job_labels(info), "annotations": {labels.RUN_ID: info.run_id}},
                "spec": _pod_spec(pod["spec"], name, resources.nodes),
            },
        },
    }


def headless_service(info: RunInfo, settings: Settings, *, job_uid: str) -> Body:
    """Return the Service that gives the pods of a try names; it goes with their Job."""
    name = job_name(info)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": settings.kubernetes_namespace,
            "labels": job_labels(info),
            "ownerReferences": [owner],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # the pods look for each other before anybody calls them ready
            "selector": job_labels(info),
        },
    }


def _pod_spec(spec: Body, name: str, num_nodes: int) -> Body:
    """Return a single pod's spec as that of each pod of a Job: it knows its place, and the Job has the deadline."""
    (container,) = spec["containers"]
    places = [
        {"name": nodes.NODES, "value": str(num_nodes)},
        {"name": nodes.FIRST_NODE, "value": f"{name}-0.{name}"},
        {"name": nodes.ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    kept = {key: value for key, value in spec.items() if key != "activeDeadlineSeconds"}
    return {**kept, "subdomain": name, "containers": [{**container, "env": [*container["env"], *places]}]}


def _failure_policy() -> Body:
    refused = {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.REFUSED)]}
    taken_away = {"type": "DisruptionTarget", "status": "True"}
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": refused},
            {"action": "Ignore", "onPodConditions": [taken_away]},
        ]
    }
