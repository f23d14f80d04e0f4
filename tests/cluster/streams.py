"""Answers that go on: watches and logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.cluster import refusals
from tests.cluster.calls import Call
from tests.cluster.logs import Reading, seconds_ago
from tests.cluster.pods import PodRunner
from tests.cluster.selectors import Matcher, Object, matcher
from tests.cluster.store import Change, Store

_HEARTBEAT_SECONDS = 0.5
_DEFAULT_SECONDS = 1800


def watch(store: Store, call: Call) -> Iterator[bytes]:
    """Return the changes of what a query selects, one JSON line each; empty parts while there are none.

    Without a version, or from version 0, it begins with what there is now.

    Raises:
        Refused: when the changes since that version are forgotten.
    """
    wanted = matcher(call.kind, call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
    begin = call.query.get("resourceVersion") or "0"
    with store.transaction():
        version = store.version if begin == "0" else int(begin)
        store.changes_since(version, call.kind)
        first = store.list(call.kind, call.namespace) if begin == "0" else []
    initial = [_line("ADDED", found) for found in first if wanted(found)]
    return _changes(store, call, wanted, version, initial)


def _changes(store: Store, call: Call, wanted: Matcher, version: int, initial: list[bytes]) -> Iterator[bytes]:
    deadline = time.monotonic() + (call.number("timeoutSeconds") or _DEFAULT_SECONDS)
    yield b"".join(initial)
    left = 1.0
    while left > 0:  # what there is when the time is over is told all the same
        left = deadline - time.monotonic()
        store.wait(version, min(max(left, 0.0), _HEARTBEAT_SECONDS))
        try:
            news = store.changes_since(version, call.kind)
        except refusals.Refused as refused:
            yield _line("ERROR", refused.status())
            return
        version = news[-1].version if news else version
        yield b"".join(_shown(change, wanted) for change in news if _is_at(change, call.namespace))
    if call.flag("allowWatchBookmarks"):
        metadata = {"resourceVersion": str(version), "creationTimestamp": None}
        bookmark = {"kind": call.kind.name, "apiVersion": call.kind.api_version, "metadata": metadata}
        yield _line("BOOKMARK", bookmark)


def log(runner: PodRunner | None, pod: Object, call: Call) -> Iterator[bytes]:
    """Return what a container of a pod prints.

    Raises:
        Refused: when there is no such container, or it has not started.
    """
    names = [row["name"] for row in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])]
    name = call.query.get("container", "")
    pod_name = pod["metadata"]["name"]
    if name and name not in names:
        raise refusals.bad_request(f"container {name} is not valid for pod {pod_name}")
    if not name and len(pod["spec"]["containers"]) > 1:
        raise refusals.bad_request(f"a container name must be specified for pod {pod_name}, choose one of: {names}")
    container = runner.container(name) if runner else None
    if container is None:
        raise refusals.bad_request(f'container "{name or names[-1]}" in pod "{pod_name}" does not have a host assigned')
    if call.flag("previous"):
        if container.previous_log is None:
            said = f'previous terminated container "{container.name}" in pod "{pod_name}" not found'
            raise refusals.bad_request(said)
        return container.previous_log.read(_reading(call))
    if "waiting" in container.state and not container.last_state:
        reason = container.state["waiting"]["reason"]
        said = f'container "{container.name}" in pod "{pod_name}" is waiting to start: {reason}'
        raise refusals.bad_request(said)
    return container.log.read(_reading(call))


def _reading(call: Call) -> Reading:
    seconds = call.number("sinceSeconds")
    return Reading(
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        since=None if seconds is None else seconds_ago(seconds),
        tail_lines=call.number("tailLines"),
        limit_bytes=call.number("limitBytes"),
    )


def _is_at(change: Change, namespace: str) -> bool:
    return namespace in ("", change.object["metadata"].get("namespace", ""))


def _shown(change: Change, wanted: Matcher) -> bytes:
    """Return a change as a watcher sees it: what no longer fits its selectors is deleted for it."""
    was = change.before is not None and wanted(change.before)
    is_now = change.after is not None and wanted(change.after)
    if is_now:
        return _line("MODIFIED" if was else "ADDED", change.object)
    if was:
        return _line("DELETED", change.object)
    return b""


def _line(kind: str, thing: Object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"
