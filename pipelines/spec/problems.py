"""What is wrong with a spec, in words: field, value, rule, way out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.spec.model import ModelSpec


class _Place(NamedTuple):
    """Where in a file something is wrong."""

    keys: list[Any]
    """The keys and positions that a person wrote to get there."""

    section: type[BaseModel] | None
    """What stands there; None: a plain value, or a section whose kind is not known."""

    kinds: Mapping[str, type[BaseModel]]
    """Kinds of section that may stand there; empty where there is one only."""

    def __str__(self) -> str:
        text = ""
        for key in self.keys:
            text += f"[{key}]" if isinstance(key, int) else f"{'.' if text else ''}{key}"
        return text


def explain(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """Return one line per broken rule: where, what was given, what is allowed."""
    return "\n".join(f"{origin}: {_explain_one(dict(problem), root)}" for problem in error.errors())


def _explain_one(problem: dict[str, Any], root: type[BaseModel]) -> str:
    kind, location = problem["type"], problem["loc"]
    if kind == "extra_forbidden":
        place = _find(root, location[:-1])
        what = _unknown("key", location[-1], _known_keys(place))
    elif kind == "union_tag_invalid":
        place = _find(root, location)
        what = _unknown("kind", problem["ctx"]["tag"], place.kinds)
    else:
        place = _find(root, location)
        what = _rule(problem, place)
    return f"{place}: {what}" if place.keys else what


def _rule(problem: dict[str, Any], place: _Place) -> str:
    kind, message = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if place.kinds:  # what was given names none of them
        message = f"must be a kind, or a mapping of `kind` and its settings; known kinds: {_listed(place.kinds)}"
    return message if kind in {"value_error", "missing"} else f"{message}, got {_short(problem['input'])}"


def _unknown(what: str, given: Any, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(given), sorted(known), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown {what} '{given}'; known {what}s: {_listed(known)}{hint}"


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(place: _Place) -> set[str]:
    return set(_keys(place.section)) - ({"name"} if place.section is ModelSpec else set()) if place.section else set()


def _keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section under the names that they have in a file."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _find(root: type[BaseModel], location: Sequence[Any]) -> _Place:
    """Follow a location of pydantic's, which also holds validators, and the kind of a section that has several."""
    keys: list[Any] = []
    section: type[BaseModel] | None = root
    kinds: Mapping[str, type[BaseModel]] = {}
    for part in location:
        if isinstance(part, str) and part.startswith("function-"):
            continue
        if part in kinds:
            section, kinds = kinds[part], {}
            continue
        keys.append(part)
        if section is not None and not isinstance(part, int):
            field = _keys(section).get(str(part))
            section, kinds = _section(field), _kinds(field)
    return _Place(keys, section, kinds)


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the only section in a field, or in the list or option that it is."""
    if field is None or field.discriminator:
        return None
    candidates = (field.annotation, *get_args(field.annotation))
    return next((found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel)), None)


def _kinds(field: FieldInfo | None) -> dict[str, type[BaseModel]]:
    """Return the sections of which a field holds one, by the value that tells them apart."""
    if field is None or not isinstance(field.discriminator, str):
        return {}
    return {section.model_fields[field.discriminator].default: section for section in get_args(field.annotation)}
