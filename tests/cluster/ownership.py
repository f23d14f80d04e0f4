"""Objects that controllers make for others, and the pods that they look after."""

from __future__ import annotations

import copy

from tests.cluster import admission, events, refusals
from tests.cluster.kinds import POD, Kind
from tests.cluster.podstatus import FAILED, SUCCEEDED
from tests.cluster.selectors import Object
from tests.cluster.store import Store


def owned(store: Store, kind: Kind, owner: Object) -> list[Object]:
    """Return the objects of a kind that an object owns."""
    namespace, uid = owner["metadata"]["namespace"], owner["metadata"]["uid"]
    return [
        thing
        for thing in store.list(kind, namespace)
        if any(reference["uid"] == uid for reference in thing["metadata"].get("ownerReferences", ()))
    ]


def reference(kind: Kind, owner: Object) -> Object:
    """Return what an owned object says about its owner."""
    about = {"apiVersion": kind.api_version, "kind": kind.name, "name": owner["metadata"]["name"]}
    return {**about, "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}


def make_pod(store: Store, kind: Kind, owner: Object, changes: Object, *, labels: Object, component: str) -> bool:
    """Make a pod from its owner's template; tell in an event why it cannot be made.

    Args:
        changes: metadata of the pod beside the template's.
        labels: labels beside the template's.
    """
    template = copy.deepcopy(owner["spec"]["template"])
    metadata = {**template.get("metadata", {}), **changes, "ownerReferences": [reference(kind, owner)]}
    metadata["labels"] = {**template.get("metadata", {}).get("labels", {}), **labels}
    notes = {**template.get("metadata", {}).get("annotations", {}), **changes.get("annotations", {})}
    spec = {**template["spec"], **changes.get("spec", {})}
    metadata = {**{key: value for key, value in metadata.items() if key != "spec"}, "annotations": notes}
    namespace = owner["metadata"]["namespace"]
    try:
        made = admission.create(store, POD, namespace, {"metadata": metadata, "spec": spec})
    except refusals.Refused as refused:
        said = f"Error creating: {refused}"
        events.record(store, kind, owner, (events.WARNING, "FailedCreate", said), component=component)
        return False
    said = f"Created pod: {made['metadata']['name']}"
    events.record(store, kind, owner, (events.NORMAL, "SuccessfulCreate", said), component=component)
    return True


def phase(pod: Object) -> str:
    """Return a pod's phase."""
    return str(pod.get("status", {}).get("phase", ""))


def is_active(pod: Object) -> bool:
    """Say whether a pod runs, or is to run."""
    return phase(pod) not in (SUCCEEDED, FAILED) and not pod["metadata"].get("deletionTimestamp")


def is_ready(pod: Object) -> bool:
    """Say whether a pod may get requests."""
    rows = pod.get("status", {}).get("conditions", ())
    return is_active(pod) and any(row["type"] == "Ready" and row["status"] == "True" for row in rows)
