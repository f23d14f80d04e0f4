"""The API server without its sockets: who asks, may they, and what is the answer."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.cluster import refusals
from tests.cluster.access import Access
from tests.cluster.calls import Answer, Call, parse
from tests.cluster.faults import NO_FAULTS, Faults
from tests.cluster.kinds import Kinds
from tests.cluster.selectors import Object
from tests.cluster.verbs import Verbs

_VERSION = {
    "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "0" * 40, "gitTreeState": "clean",
    "buildDate": "2026-04-15T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_OPEN = ("/version", "/healthz", "/livez", "/readyz")


@dataclass(frozen=True)
class Seen:
    """A request that was served, for tests that look at what was asked."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


class Api:
    """Answers requests."""

    def __init__(self, kinds: Kinds, access: Access, verbs: Verbs) -> None:
        self.faults: Faults = NO_FAULTS
        self.seen: deque[Seen] = deque(maxlen=100_000)
        self._kinds = kinds
        self._access = access
        self._verbs = verbs

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to a request.

        Raises:
            Refused: when the server says no.
            NoAnswer: when a fault wants the client to wait in vain.
        """
        path = urlsplit(target).path.rstrip("/")
        if path in _OPEN:
            return Answer(200, dict(_VERSION))
        user = self._access.user(headers.get("Authorization", ""))
        document = self._document(path)
        if document is not None:
            return Answer(200, document)
        if path == _REVIEW:
            return Answer(201, self._review(user, json.loads(body)))
        call = parse(self._kinds, method, target, headers.get("Content-Type", ""), body)
        return self._serve(user, call)

    def _serve(self, user: str, call: Call) -> Answer:
        code = 500
        try:
            self._access.check(user, call)
            answer = self.faults.around(call, lambda: self._verbs.answer(call))
            code = answer.code
        except refusals.Refused as refused:
            code = refused.code
            raise
        finally:
            resource = "/".join(filter(None, (call.kind.plural, call.subresource)))
            self.seen.append(Seen(user, call.verb, resource, call.namespace, call.name, code))
        return answer

    def _document(self, path: str) -> Object | None:
        """Return a document of discovery, or None."""
        parts = path.strip("/").split("/")
        match parts:
            case ["api"]:
                return {"kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"]}
            case ["apis"]:
                return self._kinds.groups()
            case ["apis", group]:
                return self._kinds.group(group)
            case ["api", version]:
                return self._kinds.resources("", version)
            case ["apis", group, version]:
                return self._kinds.resources(group, version)
        return None

    def _review(self, user: str, review: Object) -> Object:
        """Return whether a user may do what its review asks about."""
        wanted = review["spec"].get("resourceAttributes") or {}
        resource = "/".join(filter(None, (wanted.get("resource", ""), wanted.get("subresource", ""))))
        where = {key: wanted.get(key, "") for key in ("group", "namespace", "name")}
        is_allowed = self._access.may(user, wanted.get("verb", ""), resource, **where)
        return {**review, "status": {"allowed": is_allowed}}
