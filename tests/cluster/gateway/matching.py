"""Matches and filters of the Gateway API as Envoy's route matches, header changes and precedence."""

from __future__ import annotations

from typing import Any

from tests.cluster.selectors import Object

Rank = tuple[int, ...]
"""Precedence of a match: the greater one is asked first."""


def envoy_match(match: Object) -> Object:
    """Return a match as Envoy's."""
    path = match.get("path") or {"type": "PathPrefix", "value": "/"}
    found = _path(path.get("type", "PathPrefix"), path.get("value", "/"))
    headers = [_text("name", row) for row in match.get("headers", ())]
    if match.get("method"):
        headers.append({"name": ":method", "string_match": {"exact": match["method"]}})
    if headers:
        found["headers"] = headers
    if match.get("queryParams"):
        found["query_parameters"] = [_text("name", row) for row in match["queryParams"]]
    return found


def rank(match: Object) -> Rank:
    """Return the precedence that the Gateway API gives: exact path, longest prefix, method, headers, query."""
    path = match.get("path") or {}
    kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
    order = {"Exact": 2, "RegularExpression": 1, "PathPrefix": 0}[kind]
    has_method = int("method" in match)
    return order, len(value), has_method, len(match.get("headers", ())), len(match.get("queryParams", ()))


def header_changes(filters: list[Object]) -> dict[str, Any]:
    """Return the changes of headers that filters ask for, as fields of an Envoy route or weighted cluster."""
    fields: dict[str, Any] = {}
    for row in filters:
        for kind, side in (("requestHeaderModifier", "request"), ("responseHeaderModifier", "response")):
            if kind in row:
                _add_changes(fields, row[kind], side)
    return fields


def _path(kind: str, value: str) -> Object:
    match kind:
        case "Exact":
            return {"path": value}
        case "RegularExpression":
            return {"safe_regex": {"regex": value}}
        case _ if value == "/":
            return {"prefix": "/"}
        case _:
            return {"path_separated_prefix": value.rstrip("/")}


def _text(key: str, row: Object) -> Object:
    kind = "safe_regex" if row.get("type") == "RegularExpression" else "exact"
    value = {"regex": row["value"]} if kind == "safe_regex" else row["value"]
    return {"name": row[key], "string_match": {kind: value}}


def _add_changes(fields: dict[str, Any], wanted: Object, side: str) -> None:
    actions = {"set": "OVERWRITE_IF_EXISTS_OR_ADD", "add": "APPEND_IF_EXISTS_OR_ADD"}
    added = [
        {"header": {"key": row["name"], "value": row["value"]}, "append_action": action}
        for name, action in actions.items()
        for row in wanted.get(name, ())
    ]
    if added:
        fields.setdefault(f"{side}_headers_to_add", []).extend(added)
    if wanted.get("remove"):
        fields.setdefault(f"{side}_headers_to_remove", []).extend(wanted["remove"])
