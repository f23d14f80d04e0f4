"""A client of the Kubernetes API: the few verbs that serving needs, and errors that name object, verb and way out.

Objects are plain dictionaries. A body is applied by the server (server-side apply) under a field manager of ours, so
that applying it again changes nothing, and what others own (a replica count that an autoscaler sets) stays theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from pipelines import labels
from pipelines.cluster.access import access, unusable
from pipelines.cluster.refusals import Asked, Outcome, Refusal, explain
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

_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Cluster:
    """The objects of one namespace; threads may share it. Nothing is asked before the first use."""

    def __init__(self, settings: Settings) -> None:
        self.namespace = settings.kubernetes_namespace
        self._settings = settings
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

    def ask_pod(self, name: str, port: int, path: str) -> str:
        """Return what a pod answers at a path; the API server asks it, which takes the right to get `pods/proxy`.

        Raises:
            Conflict: when there is no such pod.
            ClusterRefused, ClusterUnavailable: see there.
        """
        answer: Any = self._call("GET", POD, f"{name}:{port}/proxy{path}")
        if answer is None:
            raise Conflict(f"kubernetes: get pod {name}: it is not there any more; looking again helps")
        return str(answer)

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
        asked = _asked(method, kind, name or _name_in(body), namespace)
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
            _tell(explain(error.status or 0, str(error.body or error.reason or ""), asked, self._settings))
            return None
        except (HTTPError, OSError) as error:
            raise ClusterUnavailable(explain(0, str(error), asked, self._settings).message) from error
        return found

    def _connected(self) -> client.ApiClient:
        with self._connecting:
            if self._api is None:
                self._api = client.ApiClient(configuration(self._settings))
            return self._api


def configuration(settings: Settings) -> client.Configuration:
    """Return how to reach the API.

    Raises:
        BadInput: when the kubeconfig or its context cannot be used.
    """
    found, wanted = client.Configuration(), access(settings)
    try:
        if wanted.is_in_cluster:
            config.load_incluster_config(client_configuration=found)
        else:
            config.load_kube_config(config_file=wanted.file, context=wanted.context, client_configuration=found)
    except (ConfigException, OSError, ValueError) as error:
        raise unusable(settings, str(error)) from error
    return found


def _path(kind: Kind, name: str, namespace: str) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{namespace}" if kind.is_namespaced else ""
    return f"{root}{scope}/{kind.plural}" + (f"/{name}" if name else "")


def _name_in(body: Body | list[Body] | None) -> str:
    return str(body["metadata"]["name"]) if isinstance(body, dict) else ""


def _asked(method: str, kind: Kind, name: str, namespace: str) -> Asked:
    verb = "list" if method == "GET" and not name else _VERBS[method]
    what = f"{verb} {kind.kind} {name}".rstrip() + (f" in namespace {namespace}" * kind.is_namespaced)
    return Asked(what, f"{kind.plural}.{kind.group}" if kind.group else kind.plural, section="serving")


def _tell(refusal: Refusal) -> None:
    """Return nothing when the object does not exist; tell everything else.

    Raises:
        Conflict, ClusterRefused, ClusterUnavailable: with object, verb and way out.
    """
    match refusal.outcome:
        case Outcome.ABSENT:
            return
        case Outcome.CONFLICT:
            raise Conflict(refusal.message)
        case Outcome.REFUSED:
            raise ClusterRefused(refusal.message)
        case Outcome.FULL | Outcome.UNAVAILABLE:
            raise ClusterUnavailable(refusal.message)
