"""A training goes on with the model that it began with, and with no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipelines.errors import BadInput
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.checkpoints.manifest import Manifest


def identity(architecture: ArchitectureConfig, training: TrainingConfig, vocabulary_size: int) -> dict[str, JsonValue]:
    """Return what makes a model this one, by field of the spec."""
    told = {
        "architecture": architecture.model_dump(mode="json"),
        "training.start": training.start.model_dump(mode="json"),
    }
    return {**dict(_flat(told)), "the tokenizer's vocabulary size": vocabulary_size}


def check_same_model(
    manifest: Manifest, model: Mapping[str, JsonValue], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compare the model of a checkpoint with the one that is to go on.

    Args:
        manifest: of the checkpoint.
        model: what `identity` says of the model at hand.
        shapes: of its trained weights, by name.
        where: folder of the checkpoint.

    Raises:
        BadInput: names the first field that differs, both values, and what to do.
    """
    for field in sorted({*model, *manifest.model}):
        if model.get(field) != manifest.model.get(field):
            raise BadInput(_refusal(field, model.get(field), manifest.model.get(field), where))
    saved = {
        name.split("/", 2)[2]: tensor.shape
        for name, tensor in manifest.tensors.items()
        if name.split("/")[1] == "model"
    }
    for name in sorted({*shapes, *saved}):
        if shapes.get(name) != saved.get(name):
            raise BadInput(_refusal(f"shape of {name}", shapes.get(name), saved.get(name), where))


def _refusal(field: str, value: object, saved: object, where: str) -> str:
    return (
        f"{field} is {value}, the checkpoint {where} has {saved}: a training cannot go on with another model; set it "
        "back, or start anew: trigger with force, and without training.resume_from"
    )


def _flat(section: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
