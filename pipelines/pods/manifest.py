"""What the pod of a work step is made of.

Its container runs exactly the command that a process on one machine runs, and leaves its result in the store. Nothing
of a trigger's parameters is in it: they are in the inputs document, and names that people choose are quoted or hashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pipelines import labels
from pipelines.errors import BadInput
from pipelines.podspec import (
    container_security,
    parse_secrets,
    pod_security,
    pull_secrets,
    secret_variable,
    store_variables,
)
from pipelines.settings import Settings
from pipelines.spec import StepResources, TrainingResources
from pipelines.step import RunInfo

Body = dict[str, Any]

CONTAINER = "base"
"""Name of the container."""

PYTHON = "python"
HOME = PurePosixPath("/slipway")
"""Where the pod may write: a volume of its own."""

TEMPORARY = PurePosixPath("/tmp")  # noqa: S108 - a volume of the pod's own
SHARED_MEMORY = PurePosixPath("/dev/shm")  # noqa: S108 - a volume of the pod's own

_MODEL_LENGTH = 36
"""A name has at most 63 characters, of which task, run and try need the others."""


def check_store(settings: Settings) -> None:
    """Check that pods can reach the store.

    Raises:
        BadInput: when none is named: the default is a folder of one machine.
    """
    if not settings.store:
        raise BadInput(
            f"SLIPWAY_STORE is empty, which is {settings.store_url()}, a folder of this machine; set it to a URL that "
            "pods reach, such as s3://bucket/slipway"
        )


def pod_name(info: RunInfo) -> str:
    """Return the name of a try's pod: the same for the same try, so that it is never made twice."""
    model = info.model[:_MODEL_LENGTH].rstrip("-")
    return f"{model}-{info.task_id}-{labels.run_digest(info.run_id)}-{info.try_number}"


def step_pod(
    arguments: Sequence[str], info: RunInfo, resources: StepResources, settings: Settings, *, is_last_try: bool
) -> Body:
    """Return the pod of one try of a work step.

    Args:
        arguments: of `python`, as `pipelines.step.command` gives them.
        info: which try of what.
        resources: what the spec gives the step.
        settings: of this installation.
        is_last_try: whether it must not be interrupted any more.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(info),
            "namespace": settings.kubernetes_namespace,
            "labels": labels.step_labels(info.model, info.run_id, info.task_id, info.try_number),
            "annotations": {labels.RUN_ID: info.run_id},
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": resources.deadline_seconds,
            "terminationGracePeriodSeconds": resources.grace_seconds,
            "serviceAccountName": settings.step_service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pod_security(),
            "containers": [_container(arguments, resources, settings)],
            "volumes": [*_own_volumes(resources), *_named_volumes(resources)],
            **resources.in_pod(resources.selected_nodes(is_last_try=is_last_try)),
            **pull_secrets(settings.image_pull_secrets),
        },
    }


def _container(arguments: Sequence[str], resources: StepResources, settings: Settings) -> Body:
    return {
        "name": CONTAINER,
        "image": settings.step_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [PYTHON],
        "args": list(arguments),
        "env": _environment(resources, settings),
        "resources": _amounts(resources),
        "volumeMounts": _mounts(resources),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(resources: StepResources, settings: Settings) -> list[Body]:
    plain = {
        "HOME": str(HOME),
        "PYTHONUNBUFFERED": "1",
        "SLIPWAY_HOME": str(HOME),
        "SLIPWAY_STORE": settings.store_url(),
        "TMPDIR": str(TEMPORARY),
    }
    watched = {"SLIPWAY_PUSHGATEWAY": settings.pushgateway, "SLIPWAY_STATSD": settings.statsd}
    plain |= {name: address for name, address in watched.items() if address}
    cores = {"containerName": CONTAINER, "resource": "requests.cpu", "divisor": "1"}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "SLIPWAY_CORES", "valueFrom": {"resourceFieldRef": cores}},
        *store_variables(settings.store_secret),
        *_secrets(resources, settings),
    ]


def _secrets(resources: StepResources, settings: Settings) -> list[Body]:
    """Return the variables that come from Secrets: what the spec names for its step, before what all steps get."""
    named = parse_secrets(settings.step_secrets)
    named |= {name: (secret.name, secret.key) for name, secret in resources.secrets.items()}
    return [secret_variable(name, secret, key) for name, (secret, key) in named.items()]


def _amounts(resources: StepResources) -> Body:
    requests: Body = {"cpu": resources.cpu, "memory": resources.memory}
    limits: Body = {"memory": resources.memory}
    if resources.cpu_limit is not None:
        limits["cpu"] = resources.cpu_limit
    if resources.gpus:
        requests[resources.gpu_resource] = limits[resources.gpu_resource] = str(resources.gpus)
    return {"requests": requests, "limits": limits}


def _own_volumes(resources: StepResources) -> list[Body]:
    """Return the volumes that go with the pod."""
    disks = [{"name": name, "emptyDir": {"sizeLimit": resources.disk}} for name in ("home", "tmp")]
    if not isinstance(resources, TrainingResources):
        return disks
    return [*disks, {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": resources.shared_memory}}]


def _named_volumes(resources: StepResources) -> list[Body]:
    """Return the volumes that the spec names."""
    return [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}}
        if volume.claim
        else {"name": f"volume-{number}", "configMap": {"name": volume.config_map}}
        for number, volume in enumerate(resources.volumes)
    ]


def _mounts(resources: StepResources) -> list[Body]:
    own = {"home": HOME, "tmp": TEMPORARY}
    if isinstance(resources, TrainingResources):
        own["shm"] = SHARED_MEMORY
    return [
        *({"name": name, "mountPath": str(path)} for name, path in own.items()),
        *(
            {"name": f"volume-{number}", "mountPath": volume.mount_path, "readOnly": volume.is_read_only}
            for number, volume in enumerate(resources.volumes)
        ),
    ]
