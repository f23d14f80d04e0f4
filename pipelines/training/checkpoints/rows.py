"""The tensors of a safetensors file as its bytes come in, some rows at a time, so that nobody holds more of it."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator

import torch

from pipelines.training.checkpoints.shard import TORCH_DTYPES

_BLOCK_BYTES = 4 << 20
"""Rows that are held at once, unless a single one is larger."""

Rows = tuple[str, int, torch.Tensor]
"""Name of a tensor, number of its first row here, and the rows, shape (rows, ...); a scalar is a single row."""


def read_rows(pieces: Iterator[bytes], wanted: Container[str]) -> Iterator[Rows]:
    """Yield the wanted tensors of a file, in the order in which they lie there.

    Args:
        pieces: the bytes of the file.
        wanted: names of tensors.
    """
    content = _Bytes(pieces)
    header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if name not in wanted or begin == end:
            content.skip(end - begin)
            continue
        num_rows, *row = entry["shape"] or [1]
        row_bytes = (end - begin) // num_rows
        at_once = max(1, _BLOCK_BYTES // row_bytes)
        for first in range(0, num_rows, at_once):
            data = content.read(min(at_once, num_rows - first) * row_bytes)
            yield name, first, torch.frombuffer(data, dtype=TORCH_DTYPES[entry["dtype"]]).view(-1, *row)


class _Bytes:
    """Bytes that come in pieces, read one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytearray:
        return bytearray().join(self._take(size))

    def skip(self, size: int) -> None:
        for _ in self._take(size):
            pass

    def _take(self, size: int) -> Iterator[memoryview]:
        while size:
            self._rest = self._rest or memoryview(next(self._pieces))
            part, self._rest = self._rest[:size], self._rest[size:]
            size -= len(part)
            yield part
