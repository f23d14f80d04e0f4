"""Deployments and ReplicaSets: as many pods as wanted, and a new template by new pods before the old ones go."""

from __future__ import annotations

import hashlib
import json

from tests.cluster import deletion, ownership
from tests.cluster.kinds import DEPLOYMENT, POD, REPLICA_SET
from tests.cluster.podstatus import with_condition
from tests.cluster.selectors import Object
from tests.cluster.store import Store

_HASH = "pod-template-hash"
_COMPONENT = "replicaset-controller"


def reconcile_deployments(store: Store) -> None:
    """Give each Deployment a ReplicaSet for its template; the pods of older ones go when the new ones are ready."""
    for deployment in store.list(DEPLOYMENT):
        if deployment["metadata"].get("deletionTimestamp"):
            continue
        wanted = deployment["spec"].get("replicas", 1)
        name = _set_name(deployment)
        old = [found for found in ownership.owned(store, REPLICA_SET, deployment) if found["metadata"]["name"] != name]
        is_recreated = deployment["spec"].get("strategy", {}).get("type") == "Recreate"
        if not is_recreated or not _num_pods(store, old):
            _scale(store, deployment, name, wanted)
        new = store.find(REPLICA_SET, deployment["metadata"]["namespace"], name)
        num_ready = new["status"].get("readyReplicas", 0) if new and "status" in new else 0
        for found in old if is_recreated or num_ready >= wanted else ():
            _scale(store, deployment, found["metadata"]["name"], 0)
        _tell(store, deployment, [*old, *([new] if new else [])], new)


def reconcile_sets(store: Store) -> None:
    """Make and delete pods until each ReplicaSet has as many as it wants; a pod that is over is replaced."""
    for found in store.list(REPLICA_SET):
        if found["metadata"].get("deletionTimestamp"):
            continue
        pods = ownership.owned(store, POD, found)
        active = [pod for pod in pods if ownership.is_active(pod)]
        wanted = found["spec"].get("replicas", 1)
        labels = found["spec"]["selector"].get("matchLabels", {})
        changes = {"generateName": f"{found['metadata']['name']}-"}
        for _ in range(wanted - len(active)):
            if not ownership.make_pod(store, REPLICA_SET, found, changes, labels=labels, component=_COMPONENT):
                break
        active.sort(key=ownership.is_ready)
        for pod in active[: max(0, len(active) - wanted)]:
            deletion.delete(store, POD, pod["metadata"]["namespace"], pod["metadata"]["name"], {})
        _count(store, found, active)


def _set_name(deployment: Object) -> str:
    template = json.dumps(deployment["spec"]["template"], sort_keys=True)
    return f"{deployment['metadata']['name']}-{hashlib.sha256(template.encode()).hexdigest()[:10]}"


def _scale(store: Store, deployment: Object, name: str, replicas: int) -> None:
    namespace = deployment["metadata"]["namespace"]
    if store.find(REPLICA_SET, namespace, name) is None:
        store.create(REPLICA_SET, namespace, _new_set(deployment, name))

    def change(found: Object) -> None:
        found["spec"]["replicas"] = replicas

    store.change(REPLICA_SET, namespace, name, change)


def _new_set(deployment: Object, name: str) -> Object:
    spec = deployment["spec"]
    labels = {**spec["template"]["metadata"]["labels"], _HASH: name.rpartition("-")[2]}
    template = {**spec["template"], "metadata": {**spec["template"]["metadata"], "labels": labels}}
    selector = {**spec["selector"], "matchLabels": {**spec["selector"].get("matchLabels", {}), _HASH: labels[_HASH]}}
    metadata = {"name": name, "labels": labels, "ownerReferences": [ownership.reference(DEPLOYMENT, deployment)]}
    return {"metadata": metadata, "spec": {"replicas": 0, "selector": selector, "template": template}}


def _num_pods(store: Store, sets: list[Object]) -> int:
    return sum(len(ownership.owned(store, POD, found)) for found in sets)


def _count(store: Store, found: Object, active: list[Object]) -> None:
    num_ready = sum(ownership.is_ready(pod) for pod in active)
    counts = {"replicas": len(active), "readyReplicas": num_ready, "availableReplicas": num_ready}

    def change(draft: Object) -> None:
        draft["status"] = {**counts, "observedGeneration": draft["metadata"]["generation"]}

    store.set_status(REPLICA_SET, found["metadata"]["namespace"], found["metadata"]["name"], change)


def _tell(store: Store, deployment: Object, sets: list[Object], new: Object | None) -> None:
    wanted = deployment["spec"].get("replicas", 1)
    names = ("replicas", "readyReplicas", "availableReplicas")
    counts = {name: sum(found.get("status", {}).get(name, 0) for found in sets) for name in names}
    counts["updatedReplicas"] = new.get("status", {}).get("replicas", 0) if new else 0
    num_missing = max(0, wanted - counts["availableReplicas"])

    def change(draft: Object) -> None:
        before = draft.get("status", {}).get("conditions", ())
        reason = "MinimumReplicasUnavailable" if num_missing else "MinimumReplicasAvailable"
        rows = with_condition(before, "Available", not num_missing, reason=reason)
        shown = {name: count for name, count in counts.items() if count}
        shown |= {"unavailableReplicas": num_missing} if num_missing else {}
        draft["status"] = {**shown, "observedGeneration": draft["metadata"]["generation"], "conditions": rows}

    store.set_status(DEPLOYMENT, deployment["metadata"]["namespace"], deployment["metadata"]["name"], change)
