"""Any object store that fsspec knows (`gs://`, `az://`): objects that are written once, and no leases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import BadInput
from pipelines.storage.backend import Versioned

_CHUNK_BYTES = 8 << 20


class FsspecBackend:
    """An object store by fsspec; a conditional write is the server's, where its file system offers one."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._full(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, path: str, *pieces: bytes | memoryview) -> None:
        self._fs.pipe_file(self._full(path), b"".join(pieces))

    def replace(self, path: str, data: bytes, tag: str) -> bool:
        raise BadInput(f"{self._root}: leases need a store with conditional replacement; use file:// or s3://")

    def read(self, path: str) -> Versioned | None:
        try:
            return Versioned(self._fs.cat_file(self._full(path)), "")
        except FileNotFoundError:
            return None

    def chunks(self, path: str) -> Iterator[bytes]:
        with self._fs.open(self._full(path), "rb", block_size=_CHUNK_BYTES) as reader:
            while chunk := reader.read(_CHUNK_BYTES):
                yield chunk

    def put_file(self, path: str, source: Path) -> None:
        self._fs.put_file(str(source), self._full(path))

    def list(self, prefix: str) -> list[str]:
        root = self._root.rstrip("/") + "/"
        folder = f"{root}{prefix}/"  # some list the name itself when nothing is below it
        names = (found.lstrip("/") for found in self._fs.find(self._full(prefix)))
        return [name.removeprefix(root) for name in names if name.startswith(folder)]

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def modified(self, path: str) -> float:
        return float(self._fs.modified(self._full(path)).timestamp())

    def local_path(self, path: str) -> Path | None:
        return None

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"
