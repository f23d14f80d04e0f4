"""What a delete does: grace for pods, finalizers, and dependents by their owner references."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.cluster import refusals
from tests.cluster.kinds import ORPHAN, POD, Kind
from tests.cluster.podstatus import with_condition
from tests.cluster.selectors import Object
from tests.cluster.store import Store

_DEFAULT_GRACE_SECONDS = 30
_FOREGROUND = "foregroundDeletion"


def delete(store: Store, kind: Kind, namespace: str, name: str, options: Object) -> Object:
    """Delete an object as the options say (`DeleteOptions`); return it as it is then, or as it was last.

    Raises:
        Refused: when there is none, or a precondition does not hold.
    """
    with store.transaction():
        found = store.get(kind, namespace, name)
        _check(kind, found, options.get("preconditions") or {})
        if options.get("dryRun"):
            return found
        policy = options.get("propagationPolicy") or kind.propagation
        if policy == ORPHAN:
            _let_go(store, found)
        finalizers = list(found["metadata"].get("finalizers") or ())
        if policy == "Foreground" and dependents(store, found):
            finalizers.append(_FOREGROUND)
        grace = _grace(kind, found, options)
        if not finalizers and not grace:
            return store.remove(kind, namespace, name) or found
        return _mark(store, kind, found, finalizers, grace)


def finish(store: Store, kind: Kind, thing: Object) -> None:
    """Remove an object that was marked for deletion, when no finalizer is left."""
    metadata = thing["metadata"]
    place = kind, metadata.get("namespace", ""), metadata["name"]
    if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
        with store.transaction():
            found = store.find(*place)
            if found is not None and found["metadata"]["uid"] == metadata["uid"]:
                store.remove(*place)


def collect_garbage(store: Store) -> None:
    """Delete what nobody owns any more, and what waited only for its dependents."""
    things = store.everything()
    living = {thing["metadata"]["uid"] for _, thing in things}
    for kind, thing in things:
        metadata = thing["metadata"]
        owners = metadata.get("ownerReferences") or ()
        if owners and not metadata.get("deletionTimestamp") and all(owner["uid"] not in living for owner in owners):
            _delete_quietly(store, kind, thing)
        if metadata.get("deletionTimestamp") and _FOREGROUND in (metadata.get("finalizers") or ()):
            _finish_foreground(store, kind, thing)


def dependents(store: Store, owner: Object) -> list[tuple[Kind, Object]]:
    """Return what an object owns."""
    uid = owner["metadata"]["uid"]
    return [
        (kind, thing)
        for kind, thing in store.everything()
        if any(reference["uid"] == uid for reference in thing["metadata"].get("ownerReferences") or ())
    ]


def _check(kind: Kind, found: Object, preconditions: Object) -> None:
    for field in ("uid", "resourceVersion"):
        wanted = preconditions.get(field)
        if wanted and wanted != found["metadata"][field]:
            why = f"Precondition failed: {field} in precondition: {wanted}, in object meta: {found['metadata'][field]}"
            raise refusals.conflict(kind, found["metadata"]["name"], why)


def _grace(kind: Kind, found: Object, options: Object) -> int:
    """Return how long a pod has to end, in seconds; 0: nobody is running it, or the client wants it gone."""
    if kind != POD or not found["spec"].get("nodeName"):
        return 0
    wanted = options.get("gracePeriodSeconds")
    if wanted is None:
        wanted = found["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)
    return int(wanted)


def _mark(store: Store, kind: Kind, found: Object, finalizers: list[str], grace: int) -> Object:
    metadata = found["metadata"]
    marks: dict[str, object] = {"finalizers": finalizers} if finalizers else {}
    is_shorter = grace < metadata.get("deletionGracePeriodSeconds", grace + 1)
    if not metadata.get("deletionTimestamp") or (kind == POD and is_shorter):
        end = datetime.now(UTC) + timedelta(seconds=grace)
        marks["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        if kind == POD:
            marks["deletionGracePeriodSeconds"] = grace
    return store.mark(kind, metadata.get("namespace", ""), metadata["name"], **marks) if marks else found


def _let_go(store: Store, owner: Object) -> None:
    for kind, thing in dependents(store, owner):
        metadata = thing["metadata"]
        left = [row for row in metadata["ownerReferences"] if row["uid"] != owner["metadata"]["uid"]]
        store.mark(kind, metadata.get("namespace", ""), metadata["name"], ownerReferences=left)


def _finish_foreground(store: Store, kind: Kind, thing: Object) -> None:
    metadata = thing["metadata"]
    children = dependents(store, thing)
    for child_kind, child in children:
        if not child["metadata"].get("deletionTimestamp"):
            _delete_quietly(store, child_kind, child)
    if not children:
        left = [name for name in metadata["finalizers"] if name != _FOREGROUND]
        finish(store, kind, store.mark(kind, metadata.get("namespace", ""), metadata["name"], finalizers=left))


def _delete_quietly(store: Store, kind: Kind, thing: Object) -> None:
    metadata = thing["metadata"]
    options = {"preconditions": {"uid": metadata["uid"]}}  # by now there may be another one of this name
    try:
        delete(store, kind, metadata.get("namespace", ""), metadata["name"], options)
    except refusals.Refused as refused:
        if refused.code not in (404, 409):
            raise


def finish_unless_run(store: Store, kind: Kind, thing: Object) -> None:
    """Remove an object whose last finalizer was just taken away; pods are the kubelet's."""
    if kind != POD:
        finish(store, kind, thing)


def disrupt(store: Store, pod: Object, reason: str, message: str) -> None:
    """Note in a pod's conditions who makes it end."""

    def change(draft: Object) -> None:
        status = draft.setdefault("status", {})
        rows = status.get("conditions", ())
        status["conditions"] = with_condition(rows, "DisruptionTarget", True, reason=reason, message=message)

    store.set_status(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], change)
