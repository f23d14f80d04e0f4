"""Objects named by the sha256 of their bytes: written once, read back, and never believed without being read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines import verified
from pipelines.artifacts import file_sha256
from pipelines.backup.errors import BackupDamaged
from pipelines.backup.manifest import SavedFile
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.store import Store

FOLDER = "objects"
NUM_THREADS = 4
"""Hashing releases the interpreter, so that threads keep a fast disk, or several connections, busy."""

_OTHER_BYTES = "has other bytes than its name says"

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where a file that is to be saved lies at present."""

    file: SavedFile
    store: Store
    path: str


class Objects:
    """The objects of a backup store."""

    def __init__(self, store: Store, scratch: Path) -> None:
        """Take the backup store, and a folder for what must be downloaded to be read."""
        self._store = store
        self._scratch = scratch

    def add_all(self, sources: Iterable[Source]) -> list[SavedFile]:
        """Make sure that every source's object is there and sound; return those that had to be written.

        An object that exists is read whole before it is relied on; a damaged one is written again.

        Raises:
            ArtifactMissing: when a source does not exist.
            ArtifactCorrupt: when a source's bytes are not what its digest says.
            BackupDamaged: when an object does not read back as it was written.
            StoreUnavailable: when the backup store cannot be written.
        """
        distinct = {source.file.sha256: source for source in sources}
        written = _in_threads(self._add, distinct.values())
        return [source.file for source, is_new in zip(distinct.values(), written, strict=True) if is_new]

    def check_all(self, files: Iterable[SavedFile]) -> None:
        """Read every object whole.

        Raises:
            BackupDamaged: names one that is missing or changed.
        """
        distinct = {file.sha256: file for file in files}
        _in_threads(self._check, distinct.values())

    def fetch(self, file: SavedFile, target: Path) -> None:
        """Copy an object to a local file, and verify the copy.

        Raises:
            BackupDamaged: when it is missing or changed; the target is then removed.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            is_sound = verified.download(self._store, _path(file.sha256), file.sha256, target)
        except FileNotFoundError:
            raise _damaged(file, "is missing") from None
        if not is_sound:
            target.unlink()
            raise _damaged(file, _OTHER_BYTES)

    def names(self) -> set[str]:
        """Return the digests of all objects."""
        return {path.rpartition("/")[2] for path in self._store.list(FOLDER)}

    def remove(self, sha256: str) -> None:
        """Remove an object."""
        self._store.delete(_path(sha256))

    def remove_fragments(self) -> None:
        """Remove what killed writers left under temporary names; only a folder has such, an object store does not."""
        folder = self._store.local_path(FOLDER)
        for path in [] if folder is None else folder.rglob(".*"):
            path.unlink(missing_ok=True)

    def _add(self, source: Source) -> bool:
        file = source.file
        if self._damage(file) is None:
            return False
        with self._local(source) as path:
            if file_sha256(path) != file.sha256:
                raise ArtifactCorrupt(f"backup: {source.store.url}/{source.path} differs from its digest; not saved")
            self._store.put_file(_path(file.sha256), path)
        problem = self._damage(file)
        if problem is not None:
            self._store.delete(_path(file.sha256))
            raise _damaged(file, f"{problem} right after it was written")
        return True

    def _check(self, file: SavedFile) -> None:
        problem = self._damage(file)
        if problem is not None:
            raise _damaged(file, problem)

    def _damage(self, file: SavedFile) -> str | None:
        """Return what is wrong with an object, or None."""
        path = _path(file.sha256)
        local = self._store.local_path(path)
        try:
            if local is None:
                return None if verified.is_sound(self._store, path, file.sha256) else _OTHER_BYTES
            size = local.stat().st_size
            if size != file.size_bytes:
                return f"has {size} bytes, not {file.size_bytes}"
            return None if disk_sha256(local) == file.sha256 else _OTHER_BYTES
        except FileNotFoundError:
            return "is missing"

    @contextlib.contextmanager
    def _local(self, source: Source) -> Iterator[Path]:
        """Give a local file with a source's bytes for a block."""
        local = source.store.local_path(source.path)
        if local is not None:
            if not local.is_file():
                raise ArtifactMissing(f"backup: {source.store.url}/{source.path} is missing")
            yield local
            return
        copy = self._scratch / uuid.uuid4().hex
        try:
            verified.download(source.store, source.path, source.file.sha256, copy)
            yield copy
        except FileNotFoundError:
            raise ArtifactMissing(f"backup: {source.store.url}/{source.path} is missing") from None
        finally:
            copy.unlink(missing_ok=True)


def disk_sha256(path: Path) -> str:
    """Return the sha256 of what the disk holds: the kernel is first told to forget its copy in memory."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path(sha256: str) -> str:
    return f"{FOLDER}/{sha256[:2]}/{sha256}"


def _damaged(file: SavedFile, problem: str) -> BackupDamaged:
    return BackupDamaged(f"backup: object {file.sha256[:12]} ({file.path}) {problem}; take another backup")


def _in_threads(act: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the results in order; the first failure stops what has not begun."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(act, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
