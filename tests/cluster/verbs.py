"""What the API server does for each verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.cluster import admission, deletion, patches, refusals, streams
from tests.cluster.calls import Answer, Call
from tests.cluster.kinds import POD
from tests.cluster.kubelet import Kubelet
from tests.cluster.selectors import Object, matcher
from tests.cluster.store import STATUS, Store


class Verbs:
    """The objects of a cluster as clients may read and change them."""

    def __init__(self, store: Store, kubelet: Kubelet) -> None:
        self._store = store
        self._kubelet = kubelet

    def answer(self, call: Call) -> Answer:
        """Do what a request wants.

        Raises:
            Refused: when that is not possible.
        """
        special: dict[tuple[str, str], Callable[[Call], Answer]] = {
            ("get", "log"): self._log,
            ("get", "proxy"): self._proxy,
            ("create", "eviction"): self._evict,
            ("get", "scale"): self._scale,
            ("update", "scale"): self._rescale,
            ("patch", "scale"): self._rescale,
        }
        verbs: dict[str, Callable[[Call], Answer]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_all,
        }
        return (special.get((call.verb, call.subresource)) or verbs[call.verb])(call)

    def _get(self, call: Call) -> Answer:
        return Answer(200, self._store.get(call.kind, call.namespace, call.name))

    def _list(self, call: Call) -> Answer:
        with self._store.transaction():
            items, version = self._selected(call), self._store.version
        start, limit = int(call.query.get("continue") or 0), call.number("limit") or len(items) + 1
        metadata: Object = {"resourceVersion": str(version)}
        if start + limit < len(items):
            metadata |= {"continue": str(start + limit), "remainingItemCount": len(items) - start - limit}
        rows = items[start : start + limit]
        body = {"kind": f"{call.kind.name}List", "apiVersion": call.kind.api_version, "metadata": metadata}
        return Answer(200, {**body, "items": rows})

    def _watch(self, call: Call) -> Answer:
        return Answer(200, stream=streams.watch(self._store, call))

    def _create(self, call: Call) -> Answer:
        made = admission.create(self._store, call.kind, call.namespace, call.document(), dry_run=call.is_dry_run)
        return Answer(201, made)

    def _update(self, call: Call) -> Answer:
        wanted = call.document()
        return Answer(200, self._change(call, lambda _: wanted))

    def _patch(self, call: Call) -> Answer:
        patch = patches.read(call.content_type, call.body)
        if call.content_type == patches.APPLY:
            if not call.query.get("fieldManager"):
                raise refusals.bad_request(
                    "PatchOptions.meta.k8s.io: fieldManager: Required value: is required for apply patch"
                )
            if self._store.find(call.kind, call.namespace, call.name) is None:
                wanted = {**patch, "metadata": {**patch.get("metadata", {}), "name": call.name}}
                made = admission.create(self._store, call.kind, call.namespace, wanted, dry_run=call.is_dry_run)
                return Answer(201, made)
        return Answer(200, self._change(call, lambda found: patches.apply(call.kind, call.content_type, patch, found)))

    def _change(self, call: Call, change: Callable[[Object], Object]) -> Object:
        def checked(found: Object) -> Object:
            after = change(found)
            admission.check_change(call.kind, self._store.get(call.kind, call.namespace, call.name), after)
            return after

        subresource = STATUS if call.subresource == STATUS else ""
        changed = self._store.change(
            call.kind, call.namespace, call.name, checked, subresource=subresource, dry_run=call.is_dry_run
        )
        deletion.finish_unless_run(self._store, call.kind, changed)
        return changed

    def _delete(self, call: Call) -> Answer:
        options = self._delete_options(call)
        deleted = deletion.delete(self._store, call.kind, call.namespace, call.name, options)
        return Answer(200, deleted)

    def _delete_all(self, call: Call) -> Answer:
        options = self._delete_options(call)
        for found in self._selected(call):
            deletion.delete(
                self._store, call.kind, found["metadata"].get("namespace", ""), found["metadata"]["name"], options
            )
        return Answer(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _delete_options(self, call: Call) -> Object:
        query: Object = {key: call.query[key] for key in ("propagationPolicy",) if key in call.query}
        if (grace := call.number("gracePeriodSeconds")) is not None:
            query["gracePeriodSeconds"] = grace
        if call.is_dry_run:
            query["dryRun"] = ["All"]
        return {**query, **call.document()}

    def _selected(self, call: Call) -> list[Object]:
        wanted = matcher(call.kind, call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
        return [found for found in self._store.list(call.kind, call.namespace) if wanted(found)]

    def _log(self, call: Call) -> Answer:
        pod = self._store.get(POD, call.namespace, call.name)
        stream = streams.log(self._kubelet.runner(pod), pod, call)
        return Answer(200, stream=stream, content_type="text/plain")

    def _proxy(self, call: Call) -> Answer:
        name, _, port = call.name.partition(":")
        address = self._store.get(POD, call.namespace, name)["status"].get("podIP", "")
        try:
            answer = httpx.get(f"http://{address}:{port}/{call.path}", trust_env=False)
        except httpx.HTTPError as error:
            raise refusals.unreachable(f"error trying to reach service: {error}") from error
        return Answer(answer.status_code, stream=iter([answer.content]), content_type=answer.headers["Content-Type"])

    def _evict(self, call: Call) -> Answer:
        pod = self._store.get(POD, call.namespace, call.name)
        admission.check_eviction(self._store, pod)
        options = call.document().get("deleteOptions") or {}
        deletion.disrupt(self._store, pod, "EvictionByEvictionAPI", "Eviction API: evicting")
        deletion.delete(self._store, POD, call.namespace, call.name, options)
        return Answer(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    def _scale(self, call: Call) -> Answer:
        return Answer(200, _scale_of(self._store.get(call.kind, call.namespace, call.name)))

    def _rescale(self, call: Call) -> Answer:
        def change(found: Object) -> None:
            scale = _scale_of(found)
            wanted = call.document() if call.verb == "update" else self._patched(call, scale)
            found["spec"]["replicas"] = wanted["spec"]["replicas"]

        return Answer(200, _scale_of(self._store.change(call.kind, call.namespace, call.name, change)))

    @staticmethod
    def _patched(call: Call, scale: Object) -> Object:
        return patches.apply(call.kind, call.content_type, patches.read(call.content_type, call.body), scale)


def _scale_of(found: Object) -> Object:
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    counts: dict[str, Any] = {"replicas": found["spec"].get("replicas", 1)}
    status = {"replicas": found.get(STATUS, {}).get("replicas", 0)}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": counts, "status": status}
