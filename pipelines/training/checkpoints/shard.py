"""A rank's file of a checkpoint, composed in host memory that every checkpoint uses again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.tensor import DTensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of element types in the format."""

TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

_ALIGNMENT = 8


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this rank holds; it shares its memory with the tensor."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


@dataclass(frozen=True)
class _Layout:
    """Where each tensor of a safetensors file lies."""

    header: bytes
    spans: Mapping[str, tuple[int, int]]
    size: int


class Shard(AsyncStager):  # type: ignore[misc]  # torch is not followed by mypy
    """Stages tensors as the bytes of a safetensors file.

    The library's own writer needs the tensors on the host first, then makes a second copy, new each time, of all their
    bytes. Here the copy off the device is the file, and the training goes on as soon as it is made.
    """

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._signature: list[Any] = []
        self._slots: dict[str, torch.Tensor] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    @property
    def content(self) -> memoryview:
        """The whole file. It is overwritten when the next checkpoint is staged."""
        return memoryview(self._buffer.numpy())

    def stage(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy tensors into the file; return them for their shapes and placements, which do not change."""
        tensors = {name: local(tensor) for name, tensor in state_dict.items()}
        self._allocate(tensors)
        for name, tensor in tensors.items():
            self._slots[name].copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return state_dict

    def _allocate(self, tensors: Mapping[str, torch.Tensor]) -> None:
        signature = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if signature == self._signature:
            return
        layout = _lay_out(tensors)
        pinned = any(tensor.is_cuda for tensor in tensors.values())
        self._buffer = torch.empty(layout.size, dtype=torch.uint8, pin_memory=pinned)
        self._buffer[: len(layout.header)].copy_(torch.frombuffer(bytearray(layout.header), dtype=torch.uint8))
        self._slots = {
            name: self._buffer[slice(*layout.spans[name])].view(tensor.dtype).view(tensor.shape)
            for name, tensor in tensors.items()
        }
        self._signature = signature


def _lay_out(tensors: Mapping[str, torch.Tensor]) -> _Layout:
    """Return a layout by the rules of the format: no gaps, and each tensor at a multiple of its element's size."""
    entries: dict[str, Any] = {}
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        end = position + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    spans = {name: _shifted(entry["data_offsets"], len(header)) for name, entry in entries.items()}
    return _Layout(header, spans, len(header) + position)


def _shifted(offsets: list[int], by: int) -> tuple[int, int]:
    return offsets[0] + by, offsets[1] + by
