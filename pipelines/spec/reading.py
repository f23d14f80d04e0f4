"""Read specs and parameters, and merge them."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.errors import SpecError
from pipelines.spec.model import ModelSpec, TriggerParams
from pipelines.spec.problems import explain

FILE_NAME = re.compile(r"^[a-z]([a-z0-9_]{0,38}[a-z0-9])?$")


def model_name(path: Path) -> str:
    """Return the model name of a spec file: `docs_gpt.yaml` is model `docs-gpt`.

    Raises:
        SpecError: when the file's name is not lower case letters, digits and inner underscores.
    """
    if not FILE_NAME.match(path.stem) or path.suffix != ".yaml":
        raise SpecError(
            f"{path.name}: a spec is named <name>.yaml, in at most 40 lower case letters, digits and '_', the first a "
            "letter, the last no '_'; rename the file"
        )
    return path.stem.replace("_", "-")


def load_spec(path: Path) -> ModelSpec:
    """Read and check a spec file.

    Raises:
        SpecError: names file, field, value, rule and way out for every broken rule.
    """
    return parse_spec_text(spec_text(path), path)


def spec_text(path: Path) -> str:
    """Return the text of a spec file, as yet unchecked.

    Raises:
        SpecError: when the file is missing, wrongly named or not UTF-8.
    """
    model_name(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(sorted(found.name for found in path.parent.glob("*.yaml"))) or "none"
        raise SpecError(f"{path}: no such file; specs in that folder: {known}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def parse_spec_text(text: str, path: Path) -> ModelSpec:
    """Check the text of a spec file.

    Args:
        text: YAML.
        path: the file, which names the model; it is not read.

    Raises:
        SpecError: names file, field, value, rule and way out for every broken rule.
    """
    name = model_name(path)
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader that also refuses repeated keys
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SpecError(f"{path}: a spec is a mapping of sections, got {type(content).__name__}")
    if "name" in content:
        raise SpecError(f"{path}: name: comes from the file's name ({name}); remove the key")
    return parse_spec({"name": name, **content}, origin=str(path))


def parse_spec(content: Mapping[str, Any], origin: str = "spec") -> ModelSpec:
    """Check a spec given as plain data.

    Raises:
        SpecError: names origin, field, value, rule and way out for every broken rule.
    """
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain(error, ModelSpec, origin)) from error


def parse_params(content: Mapping[str, Any]) -> TriggerParams:
    """Check the parameters of a trigger.

    Raises:
        SpecError: names field, value and rule.
    """
    try:
        return TriggerParams.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain(error, TriggerParams, "params")) from error


def merge(spec: ModelSpec, params: TriggerParams) -> ModelSpec:
    """Return the spec with a trigger's parameters in their places, checked again.

    Raises:
        SpecError: when a parameter does not fit the spec.
    """
    content = spec.model_dump(mode="json")
    if params.max_steps is not None:
        training = content["training"]
        training["max_steps"] = params.max_steps
        training["warmup_steps"] = min(training["warmup_steps"], max(0, params.max_steps - 1))
    if params.seed is not None:
        content["training"]["seed"] = params.seed
    if params.source is not None:
        content["data"]["source"] = {**content["data"]["source"], **_source_of(params.source)}
    return parse_spec(content, origin="params")


def _source_of(text: str) -> dict[str, str]:
    if text == "python-docs":
        return {"kind": "python-docs", "uri": ""}
    kinds = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}
    for suffix, kind in kinds.items():
        if text.endswith(suffix):
            return {"kind": kind, "uri": text}
    raise SpecError(f"params: source: {text!r} must be python-docs or end in one of {', '.join(kinds)}")


def schema_json() -> str:
    """Return the JSON Schema of spec files, for editors."""
    schema = ModelSpec.model_json_schema()
    schema["properties"].pop("name")
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]
    if not schema["required"]:
        del schema["required"]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Slipway model spec"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C parser where libyaml is there
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below, with its place in the file
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
