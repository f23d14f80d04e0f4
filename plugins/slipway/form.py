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
    "seed": {"title": "Training seed"},
    "override": {"title": "Why a version that was rolled back may try again", "format": "multiline"},
}
"""What a person sees, beside the types and limits of `TriggerParams`."""


@functools.cache
def trigger_form() -> dict[str, Param]:
    """Return Airflow's params for a trigger of the lifecycle."""
    fields = TriggerParams.model_json_schema()["properties"]
    return {name: _param(schema | _FORM[name]) for name, schema in fields.items()}


def _param(schema: dict[str, Any]) -> Param:
    """Return a field that may be left empty: Airflow's form demands a value of every type but `null`."""
    del schema["default"]
    match schema.pop("anyOf", None):
        case [dict() as rules, {"type": "null"}]:
            schema |= rules
    return Param(None, **{**schema, "type": ["null", schema["type"]]})
