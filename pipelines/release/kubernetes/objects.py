"""The objects of a copy, as plain bodies: a Deployment, and what belongs to it.

Everything of a copy has the copy's name and labels, so that it is found and removed by label, half-made or not. The
Deployment owns the others: when it goes, the cluster collects what a crash left behind.

A pod holds no bento in its image. An init container of the same image fetches it by digest and verifies every byte;
only it is given the store's keys, or the role of the service account. What the pod may reach, the main container may
too, for a NetworkPolicy is a whole pod's: names and the store's ports, at any address. Both meet the PodSecurity level
"restricted", and serve on the pod's own address only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines import labels
from pipelines.formats import bento, recordings
from pipelines.formats.headers import COPY_VARIABLE
from pipelines.ledger import Version
from pipelines.podspec import container_security, pod_security, pull_secrets, store_variables
from pipelines.release.kubernetes import drain
from pipelines.release.kubernetes.cluster import (
    AUTOSCALER,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    SERVICE,
    Body,
    Kind,
)
from pipelines.settings import Settings
from pipelines.spec import ServingConfig

PORT = 3000
"""Where a pod listens, and its Service."""

BENTO_MOUNT = PurePosixPath("/bento")
BENTO_FOLDER = BENTO_MOUNT / "content"
SCRATCH_MOUNT = PurePosixPath("/scratch")
TEMPORARY_MOUNT = PurePosixPath("/tmp")  # noqa: S108 - a volume of the pod's own

LEAST_DRAIN_SECONDS = 5
"""How long the gateway may take until it sends nothing to a pod that is going away."""

END_SECONDS = 30
"""How long a drained pod may take to end; then it is killed."""

START_PERIOD_SECONDS = 2
PYTHON = "python"

FETCH = "fetch"
SERVE = "serve"
"""Names of a pod's containers."""

WITHOUT_ROLE = "eks.amazonaws.com/skip-containers"
"""Annotation of a pod, for the webhook of EKS that gives containers the role of their service account: which get none.
Elsewhere nobody reads it."""


@dataclass(frozen=True)
class Peers:
    """Whose pods may reach a service pod, besides the controller's."""

    gateway_namespace: str
    """Namespace in which the Gateway's proxies run."""

    prometheus_namespace: str


def copy_labels(version: Version) -> dict[str, str]:
    """Return what all objects of a copy are found by."""
    return {**labels.service_labels(version.service), labels.COPY: version.copy_name}


def owned_kinds() -> tuple[Kind, ...]:
    """Return the kinds of the objects that belong to a copy's Deployment."""
    return (NETWORK_POLICY, SERVICE, DISRUPTION_BUDGET, AUTOSCALER)


def bodies(version: Version, serving: ServingConfig, settings: Settings, peers: Peers) -> list[Body]:
    """Return the objects of a copy, the Deployment first."""
    found = [
        deployment(version, serving, settings),
        network_policy(version, settings, peers),
        service(version),
    ]
    if serving.replicas > 1:
        found.append(disruption_budget(version))
    if serving.max_replicas > serving.replicas:
        found.append(autoscaler(version, serving))
    return found


def owned_by(body: Body, owner: Body) -> Body:
    """Return a body that belongs to a Deployment, as the API returned it."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": False,
    }
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


def deployment(version: Version, serving: ServingConfig, settings: Settings) -> Body:
    """Return the Deployment. With an autoscaler it names no number of pods: the server begins with one, then scales."""
    is_scaled = serving.max_replicas > serving.replicas
    spec = {
        **({} if is_scaled else {"replicas": serving.replicas}),
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": 60 + version.rollout.ready_timeout_seconds,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": copy_labels(version)},
        "template": {
            "metadata": {"labels": copy_labels(version), "annotations": {WITHOUT_ROLE: SERVE}},
            "spec": _pod(version, serving, settings),
        },
    }
    return _object(DEPLOYMENT, version, spec, {labels.BENTO: version.bento.uri, labels.RUN_ID: version.run_id})


def service(version: Version) -> Body:
    """Return the Service: the name under which the gateway finds the pods that are ready."""
    spec = {
        "type": "ClusterIP",
        "selector": copy_labels(version),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    return _object(SERVICE, version, spec)


def disruption_budget(version: Version) -> Body:
    """Return the budget: of a copy's pods, one may be away on purpose."""
    return _object(DISRUPTION_BUDGET, version, {"maxUnavailable": 1, "selector": {"matchLabels": copy_labels(version)}})


def autoscaler(version: Version, serving: ServingConfig) -> Body:
    """Return the autoscaler. It shrinks late: a pod that goes takes its counters along, which holds a look."""
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": version.copy_name},
        "minReplicas": serving.replicas,
        "maxReplicas": serving.max_replicas,
        "metrics": [
            {
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": serving.cpu_percent},
                },
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    }
    return _object(AUTOSCALER, version, spec)


def network_policy(version: Version, settings: Settings, peers: Peers) -> Body:
    """Return who may talk with the pods; nobody else may, in either direction."""
    callers = [
        _pods_of(peers.gateway_namespace),
        _pods_of(peers.prometheus_namespace),
        {"podSelector": {"matchLabels": {labels.MANAGED_BY: labels.SLIPWAY, labels.COMPONENT: labels.CONTROLLER}}},
    ]
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    store = [{"port": int(port), "protocol": "TCP"} for port in settings.store_ports.split(",")]
    spec = {
        "podSelector": {"matchLabels": copy_labels(version)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": callers, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        "egress": [{"ports": names}, {"ports": store}],
    }
    return _object(NETWORK_POLICY, version, spec)


def _object(kind: Kind, version: Version, spec: Body, annotations: Mapping[str, str] | None = None) -> Body:
    metadata: Body = {"name": version.copy_name, "labels": copy_labels(version)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}


def _pods_of(namespace: str) -> Body:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _pod(version: Version, serving: ServingConfig, settings: Settings) -> Body:
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": copy_labels(version)},
    }
    return {
        "serviceAccountName": settings.service_service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": LEAST_DRAIN_SECONDS + serving.drain_seconds + END_SECONDS,
        "securityContext": pod_security(),
        **pull_secrets(settings.image_pull_secrets),
        **serving.in_pod(serving.node_selector),
        "topologySpreadConstraints": [apart, {**apart, "topologyKey": "topology.kubernetes.io/zone"}],
        "volumes": [{"name": name, "emptyDir": {"sizeLimit": serving.disk}} for name in ("bento", "scratch", "tmp")],
        "initContainers": [_fetcher(version, serving, settings)],
        "containers": [_server(version, serving, settings)],
    }


def _fetcher(version: Version, serving: ServingConfig, settings: Settings) -> Body:
    """Return the container that brings the bento; its last words are the pod's message when it cannot."""
    command = [PYTHON, "-m", "pipelines", "fetch", "--artifact", version.bento.uri, "--to", str(BENTO_FOLDER)]
    return {
        **_container(FETCH, command, serving, settings),
        "env": [
            {"name": "SLIPWAY_STORE", "value": settings.store_url()},
            {"name": "SLIPWAY_HOME", "value": str(SCRATCH_MOUNT)},
            {"name": "HOME", "value": str(SCRATCH_MOUNT)},
            *store_variables(settings.store_secret),
        ],
        "volumeMounts": _mounts(),
    }


def _server(version: Version, serving: ServingConfig, settings: Settings) -> Body:
    command = bento.serve_command(Path(BENTO_FOLDER), PORT, "$(POD_IP)", PYTHON)
    environment = {
        **bento.serve_environment(Path(SCRATCH_MOUNT)),
        "HOME": str(SCRATCH_MOUNT),
        COPY_VARIABLE: version.copy_name,
        recordings.UNREAD: "1",
    }
    stop = [PYTHON, "-c", Path(drain.__file__).read_text(encoding="utf-8"), str(PORT)]
    limits = [str(LEAST_DRAIN_SECONDS), str(LEAST_DRAIN_SECONDS + serving.drain_seconds)]
    starts = -(-version.rollout.ready_timeout_seconds // START_PERIOD_SECONDS)
    return {
        **_container(SERVE, command, serving, settings),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *({"name": name, "value": value} for name, value in sorted(environment.items())),
        ],
        "volumeMounts": _mounts(),
        "startupProbe": {**_asked("/readyz"), "periodSeconds": START_PERIOD_SECONDS, "failureThreshold": starts},
        "readinessProbe": {**_asked("/readyz"), "periodSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {**_asked("/livez"), "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": [*stop, *limits]}}},
    }


def _container(name: str, command: list[str], serving: ServingConfig, settings: Settings) -> Body:
    size: Body = {"cpu": serving.cpu, "memory": serving.memory}
    if serving.gpus and name == SERVE:
        size[serving.gpu_resource] = serving.gpus
    return {
        "name": name,
        "image": settings.service_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "resources": {"requests": size, "limits": size},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
    }


def _mounts() -> list[Body]:
    paths = {"bento": BENTO_MOUNT, "scratch": SCRATCH_MOUNT, "tmp": TEMPORARY_MOUNT}
    return [{"name": name, "mountPath": str(path)} for name, path in paths.items()]


def _asked(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}
