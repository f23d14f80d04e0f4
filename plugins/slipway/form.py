"""The typed form of a trigger: `TriggerParams` as Airflow params, so that the UI and the REST API refuse bad values."""

from __future__ import annotations

import functools
from typing import Any

from airflow.sdk import Param

from pipelines.spec import TriggerParams
from pipelines.step import WORK_STEPS

_FORM: dict[str, dict[str, Any]] = {
    "max_steps": {"title": "Training steps"},
    "source": {"title": "Data source"},
    "force": {
        "title": "Steps to run again",
        "items": {"type": "string", "enum": list(WORK_STEPS)},
        "examples": list(WORK_STEPS),  # makes the form a multiple choice
        "uniqueItems": True,
    },
    "note": {"title": "Note", "format": "multiline"},
}
"""What a person sees, beside the types and limits of `TriggerParams`."""


@functools.cache
def trigger_form() -> dict[str, Param]:
    """Return Airflow's params for a trigger of the lifecycle."""
    fields = TriggerParams.model_json_schema()["properties"]
    return {name: _param(schema | _FORM[name]) for name, schema in fields.items()}


def _param(schema: dict[str, Any]) -> Param:
    return Param(schema.pop("default"), **_nullable(schema))


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return pydantic's `anyOf: [X, null]` as `type: [X, null]`, which is what Airflow's form understands."""
    match schema.pop("anyOf", None):
        case [dict() as rules, {"type": "null"}]:
            return {**schema, **rules, "type": ["null", rules["type"]]}
        case _:
            return schema
