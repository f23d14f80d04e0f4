"""A rank's file of a checkpoint, composed in host memory that every checkpoint uses again."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.tensor import DTensor

from pipelines.training.checkpoints.staging import SLOT_BYTES

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
        self._slots: list[torch.Tensor] = []
        self._size = 0
        self._places: dict[str, list[torch.Tensor]] = {}
        self._is_given_up = False
        self._in_use = threading.Lock()

    @contextlib.contextmanager
    def content(self) -> Iterator[Sequence[memoryview]]:
        """Yield the whole file in pieces, which stay until the end of the block.

        Raises:
            RuntimeError: when this file was given up.
        """
        with self._in_use:
            if self._is_given_up:
                raise RuntimeError("this checkpoint was given up for a later one")
            yield [memoryview(piece.numpy()) for _, piece in _pieces(self._slots, 0, self._size)]

    def give_up(self) -> None:
        """Give the memory back, once nobody uses it: what was staged and is not written by then never will be."""
        with self._in_use:
            self._is_given_up = True
            self._signature, self._slots, self._places = [], [], {}

    def stage(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy tensors into the file; return them for their shapes and placements, which do not change."""
        tensors = {name: local(tensor) for name, tensor in state_dict.items()}
        self._allocate(tensors)
        for name, tensor in tensors.items():
            places = self._places[name]
            for place, part in zip(places, tensor.reshape(-1).split([len(each) for each in places]), strict=True):
                place.copy_(part, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return state_dict

    def _allocate(self, tensors: Mapping[str, torch.Tensor]) -> None:
        signature = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if signature == self._signature:
            return
        layout = _lay_out(tensors)
        self._places = {}
        self._take_memory(layout.size, is_pinned=any(tensor.is_cuda for tensor in tensors.values()))
        header = torch.frombuffer(bytearray(layout.header), dtype=torch.uint8)
        for offset, piece in _pieces(self._slots, 0, len(header)):
            piece.copy_(header[offset : offset + len(piece)])
        self._places = {
            name: [piece.view(tensor.dtype) for _, piece in _pieces(self._slots, *layout.spans[name])]
            for name, tensor in tensors.items()
        }
        self._signature = signature

    def _take_memory(self, size: int, *, is_pinned: bool) -> None:
        """Make sure that there are so many bytes; if there are fewer, they are given back before others are taken."""
        self._size = size
        if size <= sum(map(len, self._slots)):
            return
        self._slots = []
        self._slots = [
            torch.empty(min(SLOT_BYTES, size - start), dtype=torch.uint8, pin_memory=is_pinned)
            for start in range(0, size, SLOT_BYTES)
        ]


def _pieces(slots: Sequence[torch.Tensor], begin: int, end: int) -> list[tuple[int, torch.Tensor]]:
    """Return the part of each slot that lies between two places of the file, and its offset from the first."""
    found = []
    start = 0
    for slot in slots:
        first, last = max(begin, start), min(end, start + len(slot))
        if first < last:
            found.append((first - begin, slot[first - start : last - start]))
        start += len(slot)
    return found


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
