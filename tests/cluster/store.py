"""The objects of a cluster and their history: versions, conflicts, and a wait for the next change."""

from __future__ import annotations

import copy
import secrets
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.cluster import refusals
from tests.cluster.kinds import Kind
from tests.cluster.selectors import Object

KEPT_CHANGES = 50_000
STATUS = "status"
_FIXED = ("uid", "creationTimestamp", "name", "namespace", "generation", "deletionTimestamp")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What Kubernetes makes random names of: no vowels, so no words."""


@dataclass(frozen=True)
class Change:
    """One change of one object; `before` or `after` is None when it did not exist."""

    version: int
    kind: Kind
    before: Object | None
    after: Object | None

    @property
    def object(self) -> Object:
        """The object as it is now, or as it last was, with the version of this change."""
        found = self.after or self.before
        assert found is not None
        return {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}


class Store:
    """All objects. What it returns must not be changed: whoever wants a change says it by a function."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._history: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._forgotten = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._version = 0
        self._wakes = 0

    @property
    def version(self) -> int:
        """Version of the latest change."""
        return self._version

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Let nobody else change anything during a block."""
        with self._lock:
            yield

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return an object.

        Raises:
            Refused: when there is none.
        """
        found = self._objects[kind].get((namespace, name))
        if found is None:
            raise refusals.not_found(kind, name)
        return found

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        return self._objects[kind].get((namespace, name))

    def list(self, kind: Kind, namespace: str = "") -> Sequence[Object]:
        """Return the objects of a kind, in one namespace or in all."""
        with self._lock:
            rows = sorted(self._objects[kind].items())
        return [found for (home, _), found in rows if namespace in ("", home)]

    def everything(self) -> Sequence[tuple[Kind, Object]]:
        """Return all objects."""
        with self._lock:
            return [(kind, found) for kind, rows in self._objects.items() for found in rows.values()]

    def create(self, kind: Kind, namespace: str, wanted: Object, *, dry_run: bool = False) -> Object:
        """Add an object and return it as it is kept.

        Raises:
            Refused: when the name is taken.
        """
        metadata = wanted.get("metadata") or {}
        name = metadata.get("name") or f"{metadata.get('generateName', '')}{random_suffix()}"
        made = {"apiVersion": kind.api_version, "kind": kind.name, **copy.deepcopy(wanted)}
        made["metadata"] = {
            **copy.deepcopy(metadata),
            "name": name,
            **({"namespace": namespace} if kind.is_namespaced else {}),
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now(),
            "generation": 1,
        }
        with self._lock:
            if (namespace, name) in self._objects[kind]:
                raise refusals.already_exists(kind, name)
            return made if dry_run else self._put(kind, namespace, name, made)

    def change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Callable[[Object], Object | None],
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Change an object by a function that gets a copy, and changes it or returns another; return the result.

        Raises:
            Refused: when there is no such object, or the function returns one of another version.
        """
        with self._lock:
            before = self.get(kind, namespace, name)
            draft = copy.deepcopy(before)
            result = change(draft)
            after = draft if result is None else result
            if after.get("metadata", {}).get("resourceVersion") not in (None, before["metadata"]["resourceVersion"]):
                raise refusals.conflict(kind, name)
            after = _merged(kind, before, after, subresource)
            if after == before or dry_run:
                return after
            return self._put(kind, namespace, name, after)

    def set_status(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object | None]) -> bool:
        """Change an object's status if it still exists; return whether it does."""
        try:
            self.change(kind, namespace, name, change, subresource=STATUS)
        except refusals.Refused as refused:
            if refused.code != 404:
                raise
            return False
        return True

    def mark(self, kind: Kind, namespace: str, name: str, **metadata: object) -> Object:
        """Set fields of an object's metadata that no user may set."""
        with self._lock:
            before = self.get(kind, namespace, name)
            return self._put(kind, namespace, name, {**before, "metadata": {**before["metadata"], **metadata}})

    def remove(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Remove an object at once; return what it was."""
        with self._lock:
            before = self._objects[kind].pop((namespace, name), None)
            if before is not None:
                self._record(kind, before, None)
            return before

    def changes_since(self, version: int, kind: Kind | None = None) -> Sequence[Change]:
        """Return the changes after a version, of one kind or of all.

        Raises:
            Refused: when they are forgotten.
        """
        with self._lock:
            if version < self._forgotten:
                raise refusals.gone(version)
            found = []
            for change in reversed(self._history):
                if change.version <= version:
                    break
                if kind in (None, change.kind):
                    found.append(change)
            return found[::-1]

    def forget_history(self) -> None:
        """Forget all changes so far: a watch that starts before now is refused with 410."""
        with self._lock:
            self._history.clear()
            self._forgotten = self._version

    def wait(self, version: int, seconds: float) -> bool:
        """Wait until there is a change after a version, somebody wakes all, or the time is over.

        Returns:
            whether there is a change.
        """
        with self._changed:
            wakes = self._wakes
            self._changed.wait_for(lambda: self._version > version or self._wakes != wakes, seconds)
            return self._version > version

    def wake(self) -> None:
        """Wake all who wait for a change: a thread of the cluster has news that is in no object yet."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def _put(self, kind: Kind, namespace: str, name: str, made: Object) -> Object:
        before = self._objects[kind].get((namespace, name))
        made = {**made, "metadata": {**made["metadata"], "resourceVersion": str(self._version + 1)}}
        self._objects[kind][namespace, name] = made
        self._record(kind, before, made)
        return made

    def _record(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        self._version += 1
        if len(self._history) == self._history.maxlen:
            self._forgotten = self._history[0].version
        self._history.append(Change(self._version, kind, before, after))
        self._changed.notify_all()


def _merged(kind: Kind, before: Object, after: Object, subresource: str) -> Object:
    """Return what is kept of a change: a status only by its own door, the rest only by the other one."""
    if subresource == STATUS:
        metadata = {**before["metadata"], **_kept_lists(after["metadata"])}
        return {**before, "metadata": metadata, STATUS: after.get(STATUS, {})}
    fixed = {key: before["metadata"][key] for key in _FIXED if key in before["metadata"]}
    metadata = {**after["metadata"], **fixed, "resourceVersion": before["metadata"]["resourceVersion"]}
    merged = {**after, "apiVersion": before["apiVersion"], "kind": before["kind"], "metadata": metadata}
    if STATUS in kind.subresources:
        merged.pop(STATUS, None)
        if STATUS in before:
            merged[STATUS] = before[STATUS]
    if _desired(merged) != _desired(before):
        metadata["generation"] = before["metadata"].get("generation", 1) + 1
    return merged


def _kept_lists(metadata: Object) -> Object:
    return {key: metadata[key] for key in ("annotations", "labels", "finalizers") if key in metadata}


def _desired(thing: Object) -> Object:
    return {key: value for key, value in thing.items() if key not in ("metadata", STATUS)}


def now() -> str:
    """Return the time as objects carry it: whole seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_exactly() -> str:
    """Return the time with microseconds, as leases and events carry it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def random_suffix(length: int = 5) -> str:
    """Return the random end of a generated name."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))
