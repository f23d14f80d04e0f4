"""A request to the API server, what it is about by its path, query and body; and an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from tests.cluster import refusals
from tests.cluster.kinds import NAMESPACE, Kind, Kinds

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_YES = ("true", "1")


@dataclass(frozen=True)
class Answer:
    """What a client gets: an object, or a stream of bytes."""

    code: int
    body: dict[str, Any] | None = None
    stream: Iterator[bytes] | None = None
    content_type: str = "application/json"


@dataclass(frozen=True)
class Call:
    """One request about objects."""

    verb: str
    """As rules of access name it: get, list, watch, create, update, patch, delete, deletecollection."""

    kind: Kind
    namespace: str
    name: str = ""
    subresource: str = ""
    path: str = ""
    """What stands behind the subresource: where `proxy` leads."""

    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    body: bytes = b""

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing must be kept."""
        return self.query.get("dryRun") == "All"

    def flag(self, name: str) -> bool:
        """Return whether a parameter of the query is true."""
        return self.query.get(name, "").lower() in _YES

    def number(self, name: str) -> int | None:
        """Return a number of the query, or None."""
        text = self.query.get(name)
        return int(text) if text else None

    def document(self) -> dict[str, Any]:
        """Return the body as an object; an empty one when there is none.

        Raises:
            Refused: when the body is neither JSON nor YAML, or no object.
        """
        try:
            found = yaml.safe_load(self.body) if "yaml" in self.content_type else json.loads(self.body or b"{}")
        except (ValueError, yaml.YAMLError) as error:
            raise refusals.bad_request(f"the body of the request cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise refusals.bad_request("the body of the request is no object")
        return found


def parse(kinds: Kinds, method: str, target: str, content_type: str, body: bytes) -> Call:
    """Return what a request is about.

    Raises:
        Refused: when there is nothing of the kind in this API.
    """
    url = urlsplit(target)
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    group = "" if parts[0] == "api" else parts[1]
    version, *rest = parts[1:] if parts[0] == "api" else parts[2:]
    namespace = ""
    if rest[0] == NAMESPACE.plural and len(rest) > 2 and rest[2] not in NAMESPACE.subresources:
        namespace, rest = rest[1], rest[2:]
    kind = kinds.find(group, version, rest[0])
    name, subresource, *further = [*rest[1:], "", ""]
    path = "/".join(further).rstrip("/")
    if kind is None or (subresource and subresource not in kind.subresources) or (path and subresource != "proxy"):
        raise refusals.no_such_page()
    query = dict(parse_qsl(url.query))
    verb = _verb(method, name, query)
    media_type = content_type.partition(";")[0].strip()
    return Call(verb, kind, namespace, name, subresource, path, query, media_type, body)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method == "GET" and query.get("watch", "").lower() in _YES:
        return "watch"
    if method == "GET" and not name:
        return "list"
    if method == "DELETE" and not name:
        return "deletecollection"
    return _VERBS[method]
