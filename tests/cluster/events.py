"""Events: what components of the cluster say about an object."""

from __future__ import annotations

from tests.cluster.kinds import EVENT, Kind
from tests.cluster.selectors import Object
from tests.cluster.store import Store, now, random_suffix

NORMAL, WARNING = "Normal", "Warning"


Said = tuple[str, str, str]
"""Severity, reason and message."""


def record(store: Store, kind: Kind, about: Object, said: Said, *, component: str, path: str = "") -> None:
    """Write an event; one that was said before is counted."""
    severity, reason, message = said
    metadata = about["metadata"]
    namespace = metadata.get("namespace") or "default"
    who = {
        "kind": kind.name,
        "apiVersion": kind.api_version,
        "name": metadata["name"],
        "namespace": namespace,
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
        **({"fieldPath": path} if path else {}),
    }
    for event in store.list(EVENT, namespace):
        if (event["involvedObject"]["uid"], event["reason"], event["message"]) == (metadata["uid"], reason, message):
            store.change(EVENT, namespace, event["metadata"]["name"], _count)
            return
    moment = now()
    store.create(
        EVENT,
        namespace,
        {
            "metadata": {"name": f"{metadata['name']}.{random_suffix(16)}"},
            "involvedObject": who,
            "type": severity,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
        },
    )


def _count(event: Object) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now()
