"""Freeze the spec and the trigger's parameters: later steps read this copy, so editing the file changes nothing."""

from __future__ import annotations

from pipelines.artifacts import ArtifactRef
from pipelines.errors import SpecError
from pipelines.spec import Frozen, ModelSpec, TriggerParams, merge
from pipelines.step import WORK_STEPS, StepContext

LIBRARIES: tuple[str, ...] = ()

Config = ModelSpec
Inputs = TriggerParams


class Result(Frozen):
    """The frozen spec."""

    spec: ArtifactRef
    force: tuple[str, ...]
    """Steps that this run does again."""

    note: str
    override: str = ""
    """Why weights that were rolled back as worse, or refused, may be tried again."""


def configure(spec: ModelSpec) -> Config:
    """Take the whole spec."""
    return spec


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Publish spec and parameters, merged and checked.

    Raises:
        SpecError: when a parameter does not fit the spec or names an unknown step.
    """
    unknown = sorted(set(inputs.force) - set(WORK_STEPS))
    if unknown:
        raise SpecError(f"params: force: unknown step {unknown[0]!r}; known steps: {', '.join(WORK_STEPS)}")
    merged = merge(config, inputs)
    ref = context.publish_files("spec", {"spec.json": merged.canonical()})
    return Result(spec=ref, force=inputs.force, note=inputs.note, override=inputs.override)
