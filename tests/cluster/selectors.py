"""Label and field selectors, as written in a query and as written in an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.cluster.kinds import EVENT, JOB, POD, Kind
from tests.cluster.refusals import bad_request

Object = dict[str, Any]
Matcher = Callable[[Object], bool]

_ANYWHERE = ("metadata.name", "metadata.namespace")
_FIELDS = {
    POD: ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
          "status.podIP", "status.nominatedNodeName"),
    EVENT: ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
            "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
            "reportingComponent", "source", "type"),
    JOB: ("status.successful",),
}  # fmt: skip
_SET = re.compile(r"^(?P<key>[^\s!=]+)\s+(?P<operator>in|notin)\s+\((?P<values>[^)]*)\)$")
_COMMA = re.compile(r",(?![^(]*\))")


def matcher(kind: Kind, labels: str, fields: str) -> Matcher:
    """Return whether an object fits a query's selectors.

    Raises:
        Refused: when a selector cannot be read, or names a field by which this kind cannot be selected.
    """
    wanted = [_label(part.strip()) for part in _COMMA.split(labels) if part.strip()]
    wanted += [_field(kind, part.strip()) for part in fields.split(",") if part.strip()]
    return lambda thing: all(fits(thing) for fits in wanted)


def fits(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Say whether labels fit a selector object (`matchLabels`, `matchExpressions`); an absent one fits none."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expression(term, labels) for term in selector.get("matchExpressions", ()))


def _expression(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(term["key"])
    match term["operator"]:
        case "In":
            return value in term["values"]
        case "NotIn":
            return value not in term["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(term["values"][0])
        case _:
            return value is not None and int(value) < int(term["values"][0])


def _label(part: str) -> Matcher:
    if found := _SET.match(part):
        values = {value.strip() for value in found["values"].split(",")}
        key, is_in = found["key"], found["operator"] == "in"
        return lambda thing: (_labels(thing).get(key) in values) is is_in
    if "!=" in part:
        key, _, value = part.partition("!=")
        return lambda thing: _labels(thing).get(key.strip()) != value.strip()
    if "=" in part:
        key, _, value = part.replace("==", "=").partition("=")
        return lambda thing: _labels(thing).get(key.strip()) == value.strip()
    if part.startswith("!"):
        return lambda thing: part[1:] not in _labels(thing)
    if re.search(r"\s", part):
        raise bad_request(f"unable to parse requirement: {part}")
    return lambda thing: part in _labels(thing)


def _field(kind: Kind, part: str) -> Matcher:
    is_not = "!=" in part
    path, _, value = part.replace("==", "=").replace("!=", "=").partition("=")
    if path not in (*_ANYWHERE, *_FIELDS.get(kind, ())):
        raise bad_request(f"field label not supported: {path}")
    return lambda thing: (_at(thing, path) == value) is not is_not


def _labels(thing: Object) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}


def _at(thing: Object, path: str) -> str:
    value: Any = thing
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value)
