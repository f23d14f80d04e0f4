"""Autoscalers, as they are where no metrics are known: they keep a Deployment between its bounds, and say so."""

from __future__ import annotations

import functools

from tests.cluster.kinds import AUTOSCALER, DEPLOYMENT
from tests.cluster.podstatus import with_condition
from tests.cluster.selectors import Object
from tests.cluster.store import Store


def reconcile(store: Store) -> None:
    """Look at each autoscaler of a Deployment that has one replica or more."""
    for scaler in store.list(AUTOSCALER):
        namespace, target = scaler["metadata"]["namespace"], scaler["spec"]["scaleTargetRef"]
        found = store.find(DEPLOYMENT, namespace, target["name"]) if target["kind"] == DEPLOYMENT.name else None
        if found is None or not found["spec"].get("replicas", 1):
            continue
        current = found["spec"].get("replicas", 1)
        wanted = min(max(current, scaler["spec"].get("minReplicas", 1)), scaler["spec"]["maxReplicas"])
        if wanted != current:
            store.change(DEPLOYMENT, namespace, target["name"], functools.partial(_scaled, wanted))
        counts = {"currentReplicas": found.get("status", {}).get("replicas", 0), "desiredReplicas": wanted}
        store.set_status(AUTOSCALER, namespace, scaler["metadata"]["name"], functools.partial(_told, counts))


def _scaled(replicas: int, deployment: Object) -> Object:
    return {**deployment, "spec": {**deployment["spec"], "replicas": replicas}}


def _told(counts: Object, scaler: Object) -> Object:
    rows = scaler.get("status", {}).get("conditions", ())
    rows = with_condition(rows, "AbleToScale", True, reason="ReadyForNewScale")
    rows = with_condition(rows, "ScalingActive", False, reason="FailedGetResourceMetric")
    return {**scaler, "status": {**counts, "conditions": rows}}
