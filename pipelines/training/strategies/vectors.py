"""Trained weights and their gradients as one vector on the host, as ranks send them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, in an order that is the same on all ranks."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def to_vector(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a copy of tensors as one vector of float32 on the host."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to("cpu", torch.float32, copy=True)


def pieces(vector: torch.Tensor, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """Return a vector's parts, each in the shape of its parameter; no copies."""
    parts = vector.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


def set_weights(parameters: Sequence[nn.Parameter], vector: torch.Tensor) -> None:
    """Set parameters to a vector's parts."""
    with torch.no_grad():
        for parameter, part in zip(parameters, pieces(vector, parameters), strict=True):
            parameter.copy_(part)
