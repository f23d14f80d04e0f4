"""The model as others read it: in Hugging Face format, written as its weights arrive, one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from pipelines.training.initial import Named

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

MAX_FILE_BYTES = 2 * 2**30
"""Weights of one file, which are in memory together; a larger model becomes several files and an index."""


def save_model(model: PreTrainedModel, weights: Iterable[Named], tokenizer: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer; equal weights give equal bytes, and half a model is never seen.

    Args:
        model: whose configuration it is; its own weights do not matter.
        weights: by the names that the model has for them; of weights that are tied, one.
        tokenizer: folder of its files.
        folder: is replaced.
    """
    draft = folder.with_name(f"{folder.name}.draft")
    for old in (draft, folder):
        shutil.rmtree(old, ignore_errors=True)
    draft.mkdir(parents=True)
    _write_weights(model, weights, draft)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(draft)
    model.generation_config.save_pretrained(draft)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, draft / name)
    draft.replace(folder)


def _write_weights(model: PreTrainedModel, weights: Iterable[Named], folder: Path) -> None:
    parameters = dict(model.named_parameters())
    stored = {parameter: name for name, parameter in revert_weight_conversion(model, parameters).items()}
    files = WeightFiles(folder)
    for name, weight in weights:
        files.add(stored[parameters[name]], weight)
    files.close()


class WeightFiles:
    """Safetensors files in the making, of which one at a time is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: dict[str, torch.Tensor] = {}
        self._written: list[tuple[str, ...]] = []
        self._total_bytes = 0

    def add(self, name: str, weight: torch.Tensor) -> None:
        """Take one weight; write those before, when they fill a file."""
        pending_bytes = sum(each.nbytes for each in self._pending.values())
        if self._pending and pending_bytes + weight.nbytes > MAX_FILE_BYTES:
            self._write()
        self._pending[name] = weight.contiguous()
        self._total_bytes += weight.nbytes

    def close(self) -> None:
        """Write the rest, and give the files the names by which they are found."""
        self._write()
        if (count := len(self._written)) == 1:
            self._draft(1).replace(self._folder / "model.safetensors")
            return
        places = dict[str, str]()
        for number, names in enumerate(self._written, start=1):
            file = self._folder / f"model-{number:05d}-of-{count:05d}.safetensors"
            self._draft(number).replace(file)
            places |= dict.fromkeys(names, file.name)
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(places.items()))}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write(self) -> None:
        self._written.append(tuple(self._pending))
        save_file(self._pending, self._draft(len(self._written)), {"format": "pt"})
        self._pending = {}

    def _draft(self, number: int) -> Path:
        return self._folder / f"model-{number:05d}.safetensors"
