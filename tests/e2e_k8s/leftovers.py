"""What serves on a cluster: nothing of Slipway may, before; and nothing of this run does, after."""

from __future__ import annotations

from pipelines import labels
from pipelines.errors import BadInput
from pipelines.release.kubernetes.cluster import (
    DEPLOYMENT,
    HTTP_ROUTE,
    NETWORK_POLICY,
    Body,
    Cluster,
    ClusterRefused,
    Kind,
)
from pipelines.release.kubernetes.objects import PORT

COUNTERS = "e2e-counters"
OURS = {labels.MANAGED_BY: labels.SLIPWAY}


def require_none(cluster: Cluster) -> None:
    """Check that nobody has installed Slipway here: its controller and ours would undo each other's work.

    Raises:
        BadInput: names what is there.
    """
    there = [
        f"{kind.kind} {body['metadata']['name']}"
        for kind in (DEPLOYMENT, HTTP_ROUTE)
        for body in _find(cluster, kind, OURS)
    ]
    if there:
        raise BadInput(
            f"kubernetes: list Deployment and HTTPRoute in namespace {cluster.namespace}: {', '.join(there)} is there, "
            "and this command releases by a ledger of its own: name a cluster without Slipway, or remove what is "
            f"there: kubectl --namespace {cluster.namespace} delete deployment,httproute --selector "
            f"{labels.selector(OURS)}"
        )


def counters_policy(cluster: Cluster) -> Body:
    """Return what lets our controller read the counters of copies: it is no pod, so no policy of the overlay does."""
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": {"name": COUNTERS, "namespace": cluster.namespace},
        "spec": {
            "podSelector": {"matchLabels": labels.service_labels()},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }


def remove(cluster: Cluster) -> None:
    """Remove all copies, the routes to them and our policy; what belongs to a copy goes with it."""
    cluster.delete(NETWORK_POLICY, COUNTERS)
    for kind in (HTTP_ROUTE, DEPLOYMENT):
        for body in _find(cluster, kind, labels.service_labels()):
            cluster.delete(kind, body["metadata"]["name"])


def _find(cluster: Cluster, kind: Kind, wanted: dict[str, str]) -> list[Body]:
    """Return what there is of a kind; a cluster without the Gateway API has no routes."""
    try:
        return cluster.find(kind, wanted)
    except ClusterRefused as refused:
        if kind is HTTP_ROUTE and "the cluster knows no" in str(refused):
            return []
        raise
