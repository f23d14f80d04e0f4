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


class HostCopies:
    """Copies of parameters to and from vectors on the host, for which the host waits only when it says so.

    A GPU takes each in turn with what else its current stream does: it reads weights before a later step changes them,
    and writes them before a later step reads them. Until `wait` has returned, the vectors are the GPU's.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self._parameters = parameters
        self._device = device
        self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None
        self.size = sum(parameter.numel() for parameter in parameters)

    def vector(self, extra: int = 0) -> torch.Tensor:
        """Return a vector of zeros with room for all parameters, and more; a GPU reaches it without the host."""
        return torch.zeros(self.size + extra, pin_memory=self._device.type == "cuda")

    def read(self, vector: torch.Tensor) -> None:
        """Begin to set a vector of this object's to the parameters."""
        for parameter, part in zip(self._parameters, pieces(vector, self._parameters), strict=True):
            part.copy_(parameter.detach(), non_blocking=True)
        self._mark()

    def write(self, vector: torch.Tensor) -> None:
        """Begin to set the parameters to a vector of this object's."""
        with torch.no_grad():
            for parameter, part in zip(self._parameters, pieces(vector, self._parameters), strict=True):
                parameter.copy_(part, non_blocking=True)
        self._mark()

    def add(self, vector: torch.Tensor) -> None:
        """Begin to add a vector of this object's to the parameters."""
        with torch.no_grad():
            for parameter, part in zip(self._parameters, pieces(vector, self._parameters), strict=True):
                parameter.add_(part.to(self._device, non_blocking=True))
        self._mark()

    def wait(self) -> None:
        """Return when all copies are done that were begun before; any thread may call this."""
        if self._done is not None:
            with torch.cuda.device(self._device):  # which one is current, CUDA remembers for each thread
                self._done.synchronize()

    def _mark(self) -> None:
        if self._done is not None:
            self._done.record()
