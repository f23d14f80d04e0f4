"""A folder as a store: what is written appears under its name in one step, and a lock decides between writers."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from pipelines.storage.backend import Versioned

_MAX_RACES = 100
"""Attempts to write into a folder that others remove."""

_CHUNK_BYTES = 1 << 20


class FileBackend:
    """A folder. Writes go to a temporary name first, are synced, and appear under their name in one step."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, path: str, data: bytes) -> bool:
        temporary = self._write_temporary(path, [data])
        try:
            os.link(temporary, self._root / path)  # fails when the name exists: the file system decides who was first
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def put(self, path: str, *pieces: bytes | memoryview) -> None:
        self._write_temporary(path, pieces).replace(self._root / path)

    def replace(self, path: str, data: bytes, tag: str) -> bool:
        with self._locked(path):
            current = self.read(path)
            if current is None or current.tag != tag:
                return False
            self.put(path, data)
            return True

    def read(self, path: str) -> Versioned | None:
        try:
            data = (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def chunks(self, path: str) -> Iterator[bytes]:
        return _chunks(self._root / path)

    def put_file(self, path: str, source: Path) -> None:
        self._write_temporary(path, _chunks(source)).replace(self._root / path)

    def list(self, prefix: str) -> list[str]:
        folder = self._root / prefix
        return [
            found.relative_to(self._root).as_posix()
            for found in folder.rglob("*")
            if found.is_file() and not found.name.startswith(".")
        ]

    def delete(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)
        folder = (self._root / path).parent
        with contextlib.suppress(OSError):  # the folder goes with its last object
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def modified(self, path: str) -> float:
        return (self._root / path).stat().st_mtime

    def local_path(self, path: str) -> Path | None:
        return self._root / path

    def _write_temporary(self, path: str, chunks: Iterable[bytes | memoryview]) -> Path:
        target = self._root / path
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            with self._opened(temporary, "xb") as writer:
                for chunk in chunks:
                    writer.write(chunk)
                writer.flush()
                os.fsync(writer.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _opened(self, path: Path, mode: str) -> IO[bytes]:
        """Open a file in a folder that others may remove, as long as it is empty."""
        for _ in range(_MAX_RACES):
            # FileExistsError: the folder was there, and then no longer
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                path.parent.mkdir(parents=True, exist_ok=True)
                return cast(IO[bytes], path.open(mode))
        path.parent.mkdir(parents=True, exist_ok=True)
        return cast(IO[bytes], path.open(mode))

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        target = self._root / path
        with self._opened(target.parent / f".{target.name}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            yield chunk
