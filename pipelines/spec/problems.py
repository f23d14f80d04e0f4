"""What is wrong with a spec, in words: field, value, rule, way out."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.spec.model import ModelSpec


def explain(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """Return one line per broken rule: where, what was given, what is allowed."""
    return "\n".join(f"{origin}: {_explain_one(dict(problem), root)}" for problem in error.errors())


def _explain_one(problem: dict[str, Any], root: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    if problem["type"] == "extra_forbidden":
        section = _class_at(root, location[:-1])
        known = sorted(set(_keys(section)) - ({"name"} if section is ModelSpec else set())) if section else []
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        where = f"{_dotted(location[:-1])}: " if location[:-1] else ""
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{where}unknown key '{location[-1]}'; known keys: {', '.join(known)}{hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = f"{_dotted(location)}: " if location else ""
    given = "" if problem["type"] in {"value_error", "missing"} else f", got {_short(problem['input'])}"
    return f"{where}{message}{given}"


def _dotted(location: list[Any]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section under the names that they have in a file."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _class_at(root: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = root
    for part in location:
        if current is None or isinstance(part, int):
            continue
        field = _keys(current).get(str(part))
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        current = next(
            (found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel)), None
        )
    return current
