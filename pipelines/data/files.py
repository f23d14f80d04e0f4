"""Files behind an fsspec URL: a file, a glob or a folder, listed in one order and read with plain errors."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import DataRejected, StoreUnavailable
from pipelines.settings import REPOSITORY
from pipelines.trouble import Kind, explain

_CHUNK_BYTES = 8 << 20
_PROTOCOLS = "a path, s3://, gs://, az:// or https://"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `name` is relative to the source, so that a moved source keeps its digest."""

    name: str
    path: str
    filesystem: Any
    field: str
    """Key of the spec that names the source, for messages."""

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            DataRejected: when it cannot be read and trying again cannot help.
            StoreUnavailable: when it may be readable later.
        """
        with _plain_errors(self.field, self.path):
            return bytes(self.filesystem.cat_file(self.path))

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes piece by piece; raises what `read` does."""
        with _plain_errors(self.field, self.path), self.filesystem.open(self.path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield bytes(chunk)


def list_files(uri: str, suffixes: tuple[str, ...], field: str = "data.source.uri") -> list[SourceFile]:
    """Return the files that a URL names, sorted by name.

    Args:
        uri: a file, a glob, or a folder, of which the files with one of `suffixes` are taken, to any depth; names that
            begin with `.` or `_` are left out. A relative path starts at the source tree.
        suffixes: endings of the files that belong to a folder.
        field: key of the spec that holds the URL, for messages.

    Raises:
        DataRejected: when the protocol is unknown or nothing is there.
        StoreUnavailable: when the place cannot be reached at present.
    """
    with _plain_errors(field, uri):
        filesystem, path = _open(uri, field)
        if _is_glob(path):
            root = posixpath.dirname(path[: min(path.index(sign) for sign in "*?[" if sign in path)])
            found = [each for each in filesystem.glob(path) if not filesystem.isdir(each)]
        elif filesystem.isdir(path):
            root = path
            found = [each for each in filesystem.find(path) if each.endswith(suffixes) and not _is_hidden(each, path)]
        else:
            root = posixpath.dirname(path)
            found = [path] if filesystem.exists(path) else []
    if not found:
        raise DataRejected(
            f"{field}: nothing to read at {uri}{_what_is_missing(filesystem, path, root)}; "
            f"a folder is searched for {', '.join(suffixes)}; "
            "check the spelling, or where the data was written"
        )
    return sorted(
        (SourceFile(posixpath.relpath(each, root or "."), each, filesystem, field) for each in found),
        key=lambda file: file.name,
    )


def _open(uri: str, field: str) -> tuple[Any, str]:
    import fsspec

    location = uri if "://" in uri or Path(uri).is_absolute() else str(REPOSITORY / uri)
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise DataRejected(f"{field}: {uri}: {error}; use {_PROTOCOLS}") from error
    if not path:
        raise DataRejected(f"{field}: {uri} names no bucket and no folder; write it as s3://bucket/path")
    filesystem.invalidate_cache()  # a listing may be older than the files
    return filesystem, str(path)


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _is_hidden(path: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in posixpath.relpath(path, root).split("/"))


def _what_is_missing(filesystem: Any, path: str, root: str) -> str:
    """Return what more can be said of a place where nothing was found."""
    bucket = path.partition("/")[0]  # empty for local files, whose paths are absolute
    with contextlib.suppress(Exception):  # whoever may read a folder need not be allowed to see its bucket
        if bucket and not filesystem.exists(bucket):
            return f" (the bucket {bucket} does not exist)"
    return "" if path == root or _is_glob(path) else " (no such file or folder)"


@contextlib.contextmanager
def _plain_errors(field: str, place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        trouble = explain(error)
        if trouble is None:
            raise
        refusal = StoreUnavailable if trouble.kind is Kind.AWAY else DataRejected
        raise refusal(f"{field}: cannot read {place}: {trouble.reason}; {trouble.way_out}") from error
