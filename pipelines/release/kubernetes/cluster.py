"""A client of the Kubernetes API: the few verbs that serving needs, and errors that name object, verb and way out.

Objects are plain dictionaries. A body is applied by the server (server-side apply) under a field manager of ours, so
that applying it again changes nothing, and what others own (a replica count that an autoscaler sets) stays theirs.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from pipelines import labels
from pipelines.errors import BadInput, SlipwayError
from pipelines.release.ports import FleetError, RouterUnavailable
from pipelines.settings import Settings

Body = dict[str, Any]

FIELD_MANAGER = "slipway"
TIMEOUT_SECONDS = (5.0, 30.0)
"""To connect, and to wait for an answer."""


class ClusterUnavailable(FleetError, RouterUnavailable):
    """The Kubernetes API does not answer, or cannot at present."""


class ClusterRefused(BadInput):
    """The Kubernetes API refuses what was asked; the same again would be refused again."""


class Conflict(SlipwayError):
    """Somebody else changed, or made, the object first."""

    retryable = True


class Kind(NamedTuple):
    """Where the API keeps objects of a kind."""

    kind: str
    group: str
    """API group; empty: the core."""

    version: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What an object of the kind says in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACE = Kind("Namespace", "", "v1", "namespaces", is_namespaced=False)
POD = Kind("Pod", "", "v1", "pods")
SERVICE = Kind("Service", "", "v1", "services")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
AUTOSCALER = Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes")
GATEWAY = Kind("Gateway", "gateway.networking.k8s.io", "v1", "gateways")
GATEWAY_CLASS = Kind("GatewayClass", "gateway.networking.k8s.io", "v1", "gatewayclasses", is_namespaced=False)

KINDS = {
    kind.kind: kind
    for kind in (
        NAMESPACE,
        POD,
        SERVICE,
        DEPLOYMENT,
        AUTOSCALER,
        DISRUPTION_BUDGET,
        NETWORK_POLICY,
        HTTP_ROUTE,
        GATEWAY,
        GATEWAY_CLASS,
    )
}

_NOT_APPLICABLE = "the server rejected our request due to an error in our request"
"""What the API says of a JSON Patch that does not fit the object: one of its `test` operations does not hold."""

_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Cluster:
    """The objects of one namespace; threads may share it. Nothing is asked before the first use."""

    def __init__(self, settings: Settings) -> None:
        self.namespace = settings.kubernetes_namespace
        self._context = settings.kubernetes_context
        self._api: client.ApiClient | None = None
        self._connecting = threading.Lock()

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Body | None:
        """Return an object, or None when there is none of that name.

        Raises:
            ClusterRefused, ClusterUnavailable: see there.
        """
        return self._call("GET", kind, name, namespace=namespace)

    def find(self, kind: Kind, wanted: Mapping[str, str]) -> list[Body]:
        """Return the objects of a kind that have all of the wanted labels.

        Raises:
            ClusterRefused, ClusterUnavailable: see there.
        """
        found = self._call("GET", kind, query=[("labelSelector", labels.selector(dict(wanted)))])
        return list(found["items"]) if found else []

    def create(self, body: Body) -> Body:
        """Make an object.

        Raises:
            Conflict: when there is one of that name.
            ClusterRefused, ClusterUnavailable: see there.
        """
        return self._done("POST", KINDS[body["kind"]], "", body)

    def apply(self, body: Body, *, is_trial: bool = False) -> Body:
        """Make an object what a body says, as far as it says something.

        Args:
            body: with kind and name.
            is_trial: let the server check everything (permission, quota, admission), and keep nothing.

        Raises:
            ClusterRefused, ClusterUnavailable: see there.
        """
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), *([("dryRun", "All")] if is_trial else [])]
        kind = KINDS[body["kind"]]
        name, content_type = body["metadata"]["name"], "application/apply-patch+yaml"
        return self._done("PATCH", kind, name, body, query=query, content_type=content_type)

    def patch(self, kind: Kind, name: str, operations: Sequence[Body]) -> Body:
        """Change an object by JSON Patch, all of it or nothing.

        Raises:
            Conflict: when a `test` among the operations fails.
            ClusterRefused, ClusterUnavailable: see there.
        """
        query = [("fieldManager", FIELD_MANAGER)]
        return self._done(
            "PATCH", kind, name, list(operations), query=query, content_type="application/json-patch+json"
        )

    def delete(self, kind: Kind, name: str) -> None:
        """Remove an object after everything that belongs to it; one that is not there is removed.

        Raises:
            ClusterRefused, ClusterUnavailable: see there.
        """
        self._call("DELETE", kind, name, query=[("propagationPolicy", "Foreground")])

    def _done(
        self,
        method: str,
        kind: Kind,
        name: str,
        body: Body | list[Body],
        *,
        query: Iterable[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> Body:
        found = self._call(method, kind, name, body=body, query=query, content_type=content_type)
        if found is None:
            verb = _VERBS[method]
            raise Conflict(f"kubernetes: {verb} {kind.kind} {name}: it is not there any more; looking again helps")
        return found

    def _call(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        *,
        namespace: str | None = None,
        body: Body | list[Body] | None = None,
        query: Iterable[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> Body | None:
        """Return the API's answer, or None when the object does not exist."""
        namespace = namespace or self.namespace
        try:
            found: Body = self._connected().call_api(
                _path(kind, name, namespace),
                method,
                query_params=list(query),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                response_types_map=dict.fromkeys((200, 201, 202), "object"),
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_SECONDS,
            )
        except ApiException as error:
            what = name or (str(body["metadata"]["name"]) if isinstance(body, dict) else "")
            _tell(error, "list" if method == "GET" and not name else _VERBS[method], kind, what, namespace)
            return None
        except (HTTPError, OSError) as error:
            raise ClusterUnavailable(f"kubernetes: the API does not answer: {error}") from error
        return found

    def _connected(self) -> client.ApiClient:
        with self._connecting:
            if self._api is None:
                self._api = client.ApiClient(_configuration(self._context))
            return self._api


def _configuration(context: str) -> client.Configuration:
    """Return how to reach the API: a context of the kubeconfig, else the pod's own account, else the current context.

    Raises:
        BadInput: when there is no such context.
    """
    found = client.Configuration()
    file = os.environ.get("KUBECONFIG")  # the library reads it once, when it is imported
    try:
        if not context and not file and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=found)
        else:
            config.load_kube_config(config_file=file, context=context or None, client_configuration=found)
    except (ConfigException, OSError, ValueError) as error:
        wanted = f"context {context!r} (SLIPWAY_KUBERNETES_CONTEXT)" if context else "the kubeconfig's current context"
        raise BadInput(
            f"kubernetes: {wanted} cannot be used: {error}; `kubectl config get-contexts` names those that can"
        ) from error
    return found


def _path(kind: Kind, name: str, namespace: str) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{namespace}" if kind.is_namespaced else ""
    return f"{root}{scope}/{kind.plural}" + (f"/{name}" if name else "")


def _tell(error: ApiException, verb: str, kind: Kind, name: str, namespace: str) -> None:
    """Return nothing when the object does not exist; tell everything else.

    Raises:
        Conflict, ClusterRefused, ClusterUnavailable: with object, verb and way out.
    """
    reason, message, is_of_object = _status(error, kind)
    what = f"kubernetes: {verb} {kind.kind} {name}".rstrip() + (f" in namespace {namespace}" * kind.is_namespaced)
    match error.status:
        case 404 if is_of_object:
            return
        case 404 if "namespaces" in message:
            raise ClusterRefused(f"{what}: {message}; make the namespace, or set SLIPWAY_KUBERNETES_NAMESPACE")
        case 404:
            raise ClusterRefused(f"{what}: the cluster knows no {kind.plural} of {kind.api_version}; {_missing(kind)}")
        case 409 if reason != "Forbidden":
            raise Conflict(f"{what}: {message}")
        case 401:
            raise ClusterRefused(f"{what}: the credentials are not accepted ({message}); renew the kubeconfig or token")
        case 403 if "quota" in message:
            raise ClusterUnavailable(f"{what}: {message}; ask for less in `serving` of the spec, or raise the quota")
        case 403:
            raise ClusterRefused(
                f"{what}: {message}; grant `{verb}` on {kind.plural}.{kind.group or 'core'} to this account "
                "(docker/k8s/base, the controller's role)"
            )
        case 422 if message.startswith(_NOT_APPLICABLE):
            raise Conflict(f"{what}: {message}")
        case 400 | 405 | 415 | 422:
            raise ClusterRefused(f"{what}: {message}")
        case _:
            raise ClusterUnavailable(f"{what}: {error.status} {message}")


def _status(error: ApiException, kind: Kind) -> tuple[str, str, bool]:
    """Return reason and message of the API's answer, and whether it is about an object that is not there."""
    try:
        found = json.loads(error.body or "{}")
        details = found.get("details") or {}
    except (ValueError, AttributeError):
        return str(error.reason), str(error.body or error.reason).strip()[:500], False
    causes = [str(cause.get("message")) for cause in details.get("causes") or ()]
    is_of_object = bool(details.get("name")) and details.get("kind") in (kind.plural, kind.kind)
    message = "; ".join([str(found.get("message", error.reason)), *causes])
    return str(found.get("reason", "")), message, is_of_object


def _missing(kind: Kind) -> str:
    if kind.group == HTTP_ROUTE.group:
        return "install the Gateway API (v1) and a controller for it, such as Envoy Gateway"
    return "its version may be too old"
