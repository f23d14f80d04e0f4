"""An overlay, applied to a cluster; what the cluster has no API for is left out and named."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from urllib3.exceptions import HTTPError

from pipelines.cluster.refusals import Asked, explain
from pipelines.errors import BadInput
from pipelines.release.kubernetes.cluster import configuration
from pipelines.settings import REPOSITORY, Settings

Body = dict[str, Any]

FIELD_MANAGER = "slipway-e2e"
CONTROLLER_IMAGE = "slipway-airflow"
STORE_POLICY = "store"


def connect(settings: Settings) -> client.ApiClient:
    """Return a client of the cluster, after a first answer.

    Raises:
        BadInput: when kubeconfig or context cannot be used, or the cluster does not answer.
    """
    api = client.ApiClient(configuration(settings))
    with refused("get the version of the cluster", settings):
        client.VersionApi(api).get_code(_request_timeout=10)
    return api


def rendered(overlay: str, airflow_image: str) -> list[Body]:
    """Return an overlay's objects with the image of the controller, namespaces first.

    Raises:
        BadInput: when there is no kubectl, or it cannot render the overlay.
    """
    command = ["kubectl", "kustomize", str(REPOSITORY / "docker" / "k8s" / "overlays" / overlay)]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise BadInput("kubectl is not on the PATH; it renders the overlay: install it") from None
    except subprocess.CalledProcessError as error:
        raise BadInput(f"kubectl kustomize docker/k8s/overlays/{overlay}: {error.stderr.strip()}") from None
    bodies = list(yaml.safe_load_all(text))
    for body in bodies:
        for container in _containers(body):
            container["image"] = airflow_image
    return sorted(bodies, key=lambda body: body["kind"] != "Namespace")


def with_store_port(bodies: Iterable[Body], port: int) -> Iterator[Body]:
    """Yield objects, in which the policies of the store open its port as well."""
    opened = {"port": port, "protocol": "TCP"}
    for body in bodies:
        if body["kind"] == "NetworkPolicy" and body["metadata"]["name"] == STORE_POLICY:
            (rule,) = body["spec"]["egress"]
            rule["ports"] += [opened] * (opened not in rule["ports"])
        yield body


def apply(
    api: client.ApiClient, bodies: Iterable[Body], settings: Settings | None = None, *, is_trial: bool = False
) -> list[str]:
    """Apply objects by the server; return those that the cluster has no API, or no namespace, for.

    Args:
        api: of the cluster.
        bodies: with kind and name.
        settings: of the installation; errors name its context.
        is_trial: let the server check everything, and keep nothing.

    Raises:
        BadInput: names object, verb and way out.
    """
    settings = settings or Settings()
    with refused("list Namespace", settings):
        known = {namespace.metadata.name for namespace in client.CoreV1Api(api).list_namespace().items}
        dynamic = DynamicClient(api)
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
        with refused(f"apply {name}", settings):
            resource.server_side_apply(
                body=body,
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
                **({"dry_run": "All"} if is_trial else {}),
            )
    return left_out


def apply_secret(api: client.ApiClient, settings: Settings, name: str, content: dict[str, str]) -> None:
    """Make a Secret, or replace what is in it."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": settings.kubernetes_namespace},
        "stringData": content,
    }
    apply(api, [body], settings)


@contextlib.contextmanager
def refused(what: str, settings: Settings) -> Iterator[None]:
    """Tell what the API refuses, or that it does not answer, as one plain error.

    Args:
        what: verb and object of what is asked.
        settings: of the installation.

    Raises:
        BadInput: with object, verb and way out.
    """
    try:
        yield
    except ApiException as error:
        status, said = error.status or 0, error.body or error.reason or ""
        text = said.decode() if isinstance(said, bytes) else str(said)
        raise BadInput(_plain(status, text, what, settings)) from None
    except (HTTPError, OSError) as error:
        raise BadInput(_plain(0, str(error), what, settings)) from None


def _plain(status: int, said: str, what: str, settings: Settings) -> str:
    """Return what an answer means; unlike a task, this command tries nothing again."""
    return explain(status, said, Asked(what), settings).message.removesuffix("; it is tried again")


def _containers(body: Body) -> list[Body]:
    spec = body.get("spec", {}).get("template", {}).get("spec", {})
    found = [*spec.get("containers", ()), *spec.get("initContainers", ())]
    return [container for container in found if CONTROLLER_IMAGE in container["image"]]
