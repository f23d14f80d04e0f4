"""Given weights: the safetensors files in a folder, of which each rank reads no more than it keeps."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed import checkpoint as dcp
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import rename_source_key

from pipelines.errors import BadInput
from pipelines.training.checkpoints.ownership import has_elements

FIELD = "training.start.weights"

_CONSTANTS = (r"rotary_emb\.inv_freq", r"attn\.(masked_)?bias$", r"attention\.(masked_)?bias$")
"""What older versions of the architectures kept in their files, and newer ones compute."""


class GivenWeights:
    """The weights in a folder, by the names of the model that they belong to."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        """Find the weights; none is read.

        Args:
            folder: which holds safetensors files, and no others than this model's.
            model: that `config.json` describes, on the meta device.

        Raises:
            BadInput: when files cannot be read, or do not fit the model.
        """
        self._folder = folder
        shapes, self._files = _headers(folder)
        self._stored = _stored_names(model, shapes)
        _check_shapes(model, shapes, self._stored)

    def load(self, model: nn.Module) -> None:
        """Set the parameters of a model to the weights, or to this rank's parts of them.

        Args:
            model: the one that the weights belong to; its layers may be divided, and have adapters beside them.

        Raises:
            BadInput: when the files cannot be read.
        """
        wanted = {
            self._stored[name.replace(".base_layer.", ".")]: parameter.detach()
            for name, parameter in model.named_parameters()
            if name.replace(".base_layer.", ".") in self._stored and has_elements(parameter)
        }
        with _as_bad_input(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads for itself
            dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(self._folder)), no_dist=True)

    def read(self, name: str) -> torch.Tensor:
        """Return one weight, whole, on the host."""
        stored = self._stored[name]
        with safe_open(self._files[stored], framework="pt") as file:
            weight: torch.Tensor = file.get_tensor(stored)
        return weight


def _headers(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """Return the shape of each stored tensor, and its file."""
    shapes, files = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        with _as_bad_input(), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                shapes[name], files[name] = tuple(file.get_slice(name).get_shape()), path
    return shapes, files


def _stored_names(model: PreTrainedModel, stored: Collection[str]) -> dict[str, str]:
    """Return under which name each parameter is stored; of weights that are tied, any of their names will do.

    Raises:
        BadInput: when one is not there, or something else is.
    """
    parameters = model.state_dict(keep_vars=True)
    renamings = get_model_conversion_mapping(model)
    found = {rename_source_key(name, renamings, [], model.base_model_prefix, parameters)[0]: name for name in stored}
    _refuse("hold what has no place there:", {name for name in found if not _is_known(name, parameters)})
    by_parameter: dict[torch.Tensor, str] = {}
    for name, parameter in parameters.items():
        if name in found:
            by_parameter.setdefault(parameter, found[name])
    _refuse("lack", {name for name, parameter in model.named_parameters() if parameter not in by_parameter})
    return {name: by_parameter[parameter] for name, parameter in model.named_parameters()}


def _is_known(name: str, parameters: Mapping[str, torch.Tensor]) -> bool:
    return name in parameters or any(re.search(pattern, name) for pattern in _CONSTANTS)


def _check_shapes(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, str]) -> None:
    for name, parameter in model.named_parameters():
        if (shape := shapes[stored[name]]) != tuple(parameter.shape):
            raise _unloadable(f"{name} has shape {list(shape)}, not {list(parameter.shape)}")


def _refuse(problem: str, names: set[str]) -> None:
    if names:
        raise BadInput(
            f"{FIELD}: the weights do not fit their config.json: they {problem} {_some(names)}; "
            "give weights and config.json that were saved together"
        )


@contextmanager
def _as_bad_input() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _unloadable(error) from error


def _unloadable(reason: object) -> BadInput:
    return BadInput(f"{FIELD}: the weights cannot be loaded as config.json says: {reason}; copy them again")


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
