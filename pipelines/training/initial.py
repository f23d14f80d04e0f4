"""The weights with which a model begins, a decoder layer at a time, each rank keeping its own part.

A model is made on the meta device, where tensors have shapes and no data; a strategy divides it, and makes room for
what this rank holds; only then come the weights. The most that a rank holds of the whole besides is one decoder layer,
or one embedding. All ranks draw the same random numbers, so that equal seeds give equal weights, however they are
divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from pipelines.training.checkpoints.shard import local
from pipelines.training.layers import decoder_layers

Named = tuple[str, torch.Tensor]
"""A tensor of a model, whole, and its name."""

_HOST = torch.device("cpu")


def make_room(module: nn.Module, device: torch.device | str) -> None:
    """Give the parts of a model that this rank holds their memory; what is in it is not defined.

    Args:
        module: `NextTokenLoss`, on the meta device.
        device: where the parts are kept.
    """
    module.to_empty(device=device)
    module.model.tie_weights()  # each name was given memory of its own


def place(model: nn.Module, tensors: Iterable[Named]) -> None:
    """Set parameters and buffers of a model to tensors, or to this rank's parts of them."""
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, whole in tensors:
        given = whole.detach()
        if isinstance(target := places[name], DTensor):
            given = local(distribute_tensor(given, target.device_mesh, target.placements, src_data_rank=None))
        local(target).copy_(given)


def random_weights(model: PreTrainedModel, seed: int) -> Iterator[Named]:
    """Yield parameters and buffers as the architecture begins; equal arguments give equal ones.

    Args:
        model: on the meta device, where it stays.
        seed: of the random numbers.
    """
    torch.manual_seed(seed)
    first_names = {name for name, _ in model.named_parameters()}
    for prefix, unit, is_layer in _units(model):
        names = {f"{prefix}{name}" for name, _ in unit.named_parameters(recurse=is_layer)}
        if not names or names & first_names:  # else they are tied to others, and begin with these
            yield from _initialised(model, unit, prefix, is_layer=is_layer)


def buffers(model: PreTrainedModel) -> Iterator[Named]:
    """Yield what no file holds: the constants of an architecture.

    Args:
        model: on the meta device, where it stays.
    """
    for name, module in model.named_modules():
        if list(module.named_buffers(recurse=False)):
            yield from _initialised(model, module, f"{name}.", is_layer=False)


def _units(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield what is made at once: each decoder layer whole, and each module that is in none, by itself."""
    layers = set(decoder_layers(model))
    inside = {module for layer in layers for module in layer.modules()} - layers
    for name, module in model.named_modules():
        if module not in inside:
            yield f"{name}." if name else "", module, module in layers


def _initialised(model: PreTrainedModel, unit: nn.Module, prefix: str, *, is_layer: bool) -> Iterator[Named]:
    unit.to_empty(device=_HOST, recurse=is_layer)
    with torch.no_grad():
        if is_layer:
            unit.apply(model._init_weights)  # how an architecture says what its modules begin with
        else:
            model._init_weights(unit)
    yield from ((f"{prefix}{name}", tensor) for name, tensor in unit.named_parameters(recurse=is_layer))
    yield from ((f"{prefix}{name}", tensor) for name, tensor in unit.named_buffers(recurse=is_layer))
    unit.to_empty(device="meta", recurse=is_layer)
