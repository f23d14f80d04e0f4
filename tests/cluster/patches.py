"""The four kinds of patch that the API takes: JSON Patch, merge patch, strategic merge patch and apply."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
import yaml

from tests.cluster import refusals
from tests.cluster.kinds import Kind
from tests.cluster.selectors import Object

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

_KEYS = {
    "conditions": ("type",),
    "containers": ("name",),
    "containerStatuses": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists that a strategic merge patch merges by a key (the first one that the entry has); it replaces the others."""

_SETS = ("finalizers",)
_ORDER, _KEEP, _DELETE = "$setElementOrder/", "$retainKeys", "$deleteFromPrimitiveList/"


def read(content_type: str, body: bytes) -> Any:
    """Return a patch as it was sent.

    Raises:
        Refused: when it is not JSON or YAML.
    """
    try:
        return yaml.safe_load(body) if content_type == APPLY else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise refusals.bad_request(f"error decoding patch: {error}") from error


def apply(kind: Kind, content_type: str, patch: Any, thing: Object) -> Object:
    """Return an object with a patch applied.

    Raises:
        Refused: when the patch does not fit, or this kind takes no such patch.
    """
    accepted = [JSON_PATCH, MERGE, APPLY] if kind.is_custom else [JSON_PATCH, MERGE, STRATEGIC, APPLY]
    if content_type not in accepted:
        raise refusals.unsupported(content_type, accepted)
    if content_type == JSON_PATCH:
        return _json_patch(patch, thing)
    if not isinstance(patch, dict):
        raise refusals.bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    if content_type == MERGE or kind.is_custom:
        merged: Object = merge(thing, patch)
    else:
        merged = strategic_merge(thing, patch)
    return merged


def merge(thing: Any, patch: Any) -> Any:
    """Return the result of a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(thing) if isinstance(thing, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def strategic_merge(thing: Any, patch: Any) -> Any:
    """Return the result of a strategic merge patch: lists of named things are merged by their names."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    merged = dict(thing) if isinstance(thing, dict) else {}
    if _KEEP in patch:
        merged = {name: value for name, value in merged.items() if name in patch[_KEEP]}
    for name, value in patch.items():
        if name.startswith(_DELETE):
            field = name.removeprefix(_DELETE)
            merged[field] = [entry for entry in merged.get(field, ()) if entry not in value]
        elif name.startswith(("$", _ORDER)):
            continue
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged_field(name, merged.get(name), value)
    return merged


def _merged_field(name: str, current: Any, value: Any) -> Any:
    if not isinstance(value, list):
        return strategic_merge(current, value)
    if name in _SETS:
        return [*(current or ()), *(entry for entry in value if entry not in (current or ()))]
    key = next((key for key in _KEYS.get(name, ()) if value and isinstance(value[0], dict) and key in value[0]), None)
    return _merged_list(key, current or [], value) if key else copy.deepcopy(value)


def _merged_list(key: str, current: list[Object], patch: list[Object]) -> list[Object]:
    if any(entry.get("$patch") == "replace" for entry in patch):
        return [entry for entry in patch if entry.get("$patch") != "replace"]
    rows = {entry.get(key): entry for entry in current}
    for entry in patch:
        if entry.get("$patch") == "delete":
            rows.pop(entry[key], None)
        else:
            rows[entry[key]] = strategic_merge(rows.get(entry[key]), entry)
    return list(rows.values())


def _json_patch(patch: Any, thing: Object) -> Object:
    """Return the result of a JSON Patch (RFC 6902), `test` included."""
    if not isinstance(patch, list):
        raise refusals.bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    result = copy.deepcopy(thing)
    for operation in patch:
        try:
            result = jsonpatch.apply_patch(result, [operation], in_place=True)
        except jsonpatch.InvalidJsonPatch as error:
            raise refusals.bad_request(f"invalid JSON Patch: {error}") from error
        except jsonpatch.JsonPatchTestFailed as error:
            raise refusals.unprocessable(f"testing value {operation['path']} failed: test failed") from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise refusals.unprocessable(str(error)) from error
    return result
