"""Types of objects that the cluster knows, and the documents with which clients discover them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ORPHAN, BACKGROUND = "Orphan", "Background"


@dataclass(frozen=True)
class Kind:
    """One type of object: where it lives in the API, and what is special about it."""

    group: str
    version: str
    name: str
    plural: str
    is_namespaced: bool = True
    is_custom: bool = False
    """A custom resource takes no strategic merge patch, and fields that its schema does not know are kept."""

    subresources: tuple[str, ...] = ()
    propagation: str = BACKGROUND
    """What a delete that does not say so does with dependents."""

    @property
    def api_version(self) -> str:
        """Value of an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """Name in messages, such as `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


POD = Kind("", "v1", "Pod", "pods", subresources=("status", "log", "eviction", "binding", "exec", "proxy"))
EVENT = Kind("", "v1", "Event", "events")
NODE = Kind("", "v1", "Node", "nodes", is_namespaced=False, subresources=("status",))
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", is_namespaced=False, subresources=("status",))
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SERVICE = Kind("", "v1", "Service", "services", subresources=("status",))
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
RESOURCE_QUOTA = Kind("", "v1", "ResourceQuota", "resourcequotas", subresources=("status",))
JOB = Kind("batch", "v1", "Job", "jobs", subresources=("status",), propagation=ORPHAN)
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", subresources=("status", "scale"))
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets", subresources=("status", "scale"))
AUTOSCALER = Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", subresources=("status",))
DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", subresources=("status",))
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
PRIORITY_CLASS = Kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", is_namespaced=False)
RUNTIME_CLASS = Kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", is_namespaced=False)
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
_RBAC = "rbac.authorization.k8s.io"
ROLE = Kind(_RBAC, "v1", "Role", "roles")
ROLE_BINDING = Kind(_RBAC, "v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE = Kind(_RBAC, "v1", "ClusterRole", "clusterroles", is_namespaced=False)
CLUSTER_ROLE_BINDING = Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", is_namespaced=False)


def custom(group: str, version: str, name: str, plural: str, *, is_namespaced: bool = True) -> Kind:
    """Return the type of a custom resource with a status of its own."""
    return Kind(group, version, name, plural, is_namespaced, is_custom=True, subresources=("status",))


_GATEWAY_API = "gateway.networking.k8s.io"
HTTP_ROUTE = custom(_GATEWAY_API, "v1", "HTTPRoute", "httproutes")
GATEWAY = custom(_GATEWAY_API, "v1", "Gateway", "gateways")
GATEWAY_CLASS = custom(_GATEWAY_API, "v1", "GatewayClass", "gatewayclasses", is_namespaced=False)
REFERENCE_GRANT = custom(_GATEWAY_API, "v1beta1", "ReferenceGrant", "referencegrants")
POD_MONITOR = custom("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors")

KNOWN = (
    POD, EVENT, NODE, NAMESPACE, SECRET, CONFIG_MAP, SERVICE, ENDPOINTS, SERVICE_ACCOUNT, RESOURCE_QUOTA, JOB,
    DEPLOYMENT, REPLICA_SET, AUTOSCALER, DISRUPTION_BUDGET, NETWORK_POLICY, LEASE, PRIORITY_CLASS, RUNTIME_CLASS,
    ENDPOINT_SLICE, ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING,
    HTTP_ROUTE, GATEWAY, GATEWAY_CLASS, REFERENCE_GRANT, POD_MONITOR,
)  # fmt: skip


class Kinds:
    """The types that one cluster serves; a test may add its custom resources."""

    def __init__(self) -> None:
        self._known = {(kind.group, kind.version, kind.plural): kind for kind in KNOWN}

    def add(self, kind: Kind) -> None:
        """Serve one more type."""
        self._known[kind.group, kind.version, kind.plural] = kind

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the type at a place of the API, or None."""
        return self._known.get((group, version, plural))

    def of(self, manifest: dict[str, Any]) -> Kind:
        """Return the type of a manifest."""
        wanted = manifest["apiVersion"], manifest["kind"]
        return next(kind for kind in self._known.values() if (kind.api_version, kind.name) == wanted)

    def __iter__(self) -> Any:
        return iter(self._known.values())

    def groups(self) -> dict[str, Any]:
        """Return the document at /apis."""
        names = sorted({kind.group for kind in self if kind.group})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self.group(name) for name in names]}

    def group(self, name: str) -> dict[str, Any] | None:
        """Return the document of one group, or None when there is none."""
        versions = [
            {"groupVersion": kind.api_version, "version": kind.version}
            for kind in {kind.version: kind for kind in self if kind.group == name}.values()
        ]
        if not versions:
            return None
        about = {"kind": "APIGroup", "apiVersion": "v1", "name": name}
        return {**about, "versions": versions, "preferredVersion": versions[0]}

    def resources(self, group: str, version: str) -> dict[str, Any] | None:
        """Return the document of one group and version, or None when there is no such thing."""
        kinds = [kind for kind in self if (kind.group, kind.version) == (group, version)]
        if not kinds:
            return None
        rows = [_row(kind, name) for kind in kinds for name in ("", *kind.subresources)]
        group_version = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}


def _row(kind: Kind, subresource: str) -> dict[str, Any]:
    verbs = ["get", "patch", "update"] if subresource else _VERBS
    name = f"{kind.plural}/{subresource}" if subresource else kind.plural
    singular = kind.name.lower()
    row = {"name": name, "singularName": singular, "namespaced": kind.is_namespaced, "kind": kind.name}
    return {**row, "verbs": verbs}


_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
