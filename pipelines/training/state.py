"""Training state as bytes and back: weights, optimizer, random number generators, metrics. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import nn

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
GENERATORS = "generators.safetensors"
METRICS = "metrics.jsonl"


def capture(
    model: nn.Module, optimizer: torch.optim.Optimizer, generators: torch.Tensor, metrics: bytes
) -> dict[str, bytes]:
    """Return the files of a checkpoint; `generators` has one row per rank."""
    return {
        MODEL: _encode(dict(model.named_parameters())),
        OPTIMIZER: _encode(_optimizer_tensors(model, optimizer)),
        GENERATORS: _encode({"state": generators}),
        METRICS: metrics,
    }


def restore(files: Mapping[str, bytes], model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> None:
    """Put a checkpoint's state in place, exactly as it was captured."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in safetensors.torch.load(files[MODEL]).items():
            parameters[name].copy_(value)
    for key, value in safetensors.torch.load(files[OPTIMIZER]).items():
        name, _, entry = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][entry] = value.to(parameter.device, copy=True)
    set_generators(safetensors.torch.load(files[GENERATORS])["state"][rank], next(iter(parameters.values())).device)


def generators(device: torch.device) -> torch.Tensor:
    """Return the states of this rank's random number generators as bytes, shape (n,)."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_generators(state: torch.Tensor, device: torch.device) -> None:
    """Put back what `generators` returned."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(state[:size].cpu().clone())  # given a view, torch reads from the wrong address
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:].cpu().clone(), device)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    states: dict[torch.Tensor, dict[str, Any]] = dict(optimizer.state)
    return {
        f"{name}/{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in states.get(parameter, {}).items()
    }


def _encode(tensors: Mapping[str, torch.Tensor]) -> bytes:
    encoded: bytes = safetensors.torch.save(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    )
    return encoded
