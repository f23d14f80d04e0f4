"""An overlay, applied to a cluster; what the cluster has no API for is left out and named."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from pipelines.settings import REPOSITORY

Body = dict[str, Any]

FIELD_MANAGER = "slipway-e2e"
CONTROLLER_IMAGE = "slipway-airflow"


def connect(context: str) -> client.ApiClient:
    """Return a client of the cluster that KUBECONFIG names."""
    return config.new_client_from_config(context=context or None)


def rendered(overlay: str, airflow_image: str) -> list[Body]:
    """Return an overlay's objects with the image of the controller, namespaces first."""
    command = ["kubectl", "kustomize", str(REPOSITORY / "docker" / "k8s" / "overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bodies = list(yaml.safe_load_all(text))
    for body in bodies:
        for container in _containers(body):
            container["image"] = airflow_image
    return sorted(bodies, key=lambda body: body["kind"] != "Namespace")


def apply(api: client.ApiClient, bodies: Iterable[Body]) -> list[str]:
    """Apply objects by the server; return those that the cluster has no API, or no namespace, for."""
    dynamic = DynamicClient(api)
    known = {namespace.metadata.name for namespace in client.CoreV1Api(api).list_namespace().items}
    left_out = []
    for body in bodies:
        metadata = body["metadata"]
        name = f"{body['kind']} {metadata['name']}"
        known |= {metadata["name"]} if body["kind"] == "Namespace" else set()
        try:
            resource = dynamic.resources.get(api_version=body["apiVersion"], kind=body["kind"])
        except ResourceNotFoundError:
            left_out.append(f"{name}: the cluster has no {body['apiVersion']}")
            continue
        if metadata.get("namespace", "default") not in known:
            left_out.append(f"{name}: the cluster has no namespace {metadata['namespace']}")
            continue
        resource.server_side_apply(
            body=body,
            name=metadata["name"],
            namespace=metadata.get("namespace"),
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )
    return left_out


def apply_secret(api: client.ApiClient, namespace: str, name: str, content: dict[str, str]) -> None:
    """Make a Secret, or replace what is in it."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": content,
    }
    apply(api, [body])


def gateway_controller(api: client.ApiClient, name: str) -> bool:
    """Return whether somebody has accepted a GatewayClass, so that a Gateway of it works."""
    try:
        found = DynamicClient(api).resources.get(api_version="gateway.networking.k8s.io/v1", kind="GatewayClass")
    except ResourceNotFoundError:
        return False
    listed = [item.to_dict() for item in found.get().items if item.metadata.name == name]
    conditions = [row for item in listed for row in (item.get("status") or {}).get("conditions", ())]
    return any(row["type"] == "Accepted" and row["status"] == "True" for row in conditions)


def _containers(body: Body) -> list[Body]:
    spec = body.get("spec", {}).get("template", {}).get("spec", {})
    found = [*spec.get("containers", ()), *spec.get("initContainers", ())]
    return [container for container in found if CONTROLLER_IMAGE in container["image"]]
