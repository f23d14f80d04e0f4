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

_PROTOCOLS = "a path, s3://, gs://, az:// or https://"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `name` is relative to the source, so that a moved source keeps its digest."""

    name: str
    path: str
    filesystem: Any

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            DataRejected: when it cannot be read and trying again cannot help.
            StoreUnavailable: when it may be readable later.
        """
        with _plain_errors(self.path):
            return bytes(self.filesystem.cat_file(self.path))


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[SourceFile]:
    """Return the files that a URL names, sorted by name.

    Args:
        uri: a file, a glob, or a folder, of which the files with one of `suffixes` are taken, to any depth; names that
            begin with `.` or `_` are left out. A relative path starts at the source tree.
        suffixes: endings of the files that belong to a folder.

    Raises:
        DataRejected: when the protocol is unknown or nothing is there.
        StoreUnavailable: when the place cannot be reached at present.
    """
    with _plain_errors(uri):
        filesystem, path = _open(uri)
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
        wanted = "" if path in (root, "") or _is_glob(path) else " (no such file or folder)"
        raise DataRejected(
            f"data.source.uri: nothing to read at {uri}{wanted}; a folder is searched for {', '.join(suffixes)}; "
            "check the spelling, or where the data was written"
        )
    return sorted(
        (SourceFile(posixpath.relpath(each, root or "."), each, filesystem) for each in found),
        key=lambda file: file.name,
    )


def _open(uri: str) -> tuple[Any, str]:
    import fsspec

    location = uri if "://" in uri or Path(uri).is_absolute() else str(REPOSITORY / uri)
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise DataRejected(f"data.source.uri: {uri}: {error}; use {_PROTOCOLS}") from error
    filesystem.invalidate_cache()  # a listing may be older than the files
    return filesystem, str(path)


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _is_hidden(path: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in posixpath.relpath(path, root).split("/"))


@contextlib.contextmanager
def _plain_errors(place: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataRejected(f"data.source.uri: {place} does not exist; check the spelling and the folder") from error
    except PermissionError as error:
        raise DataRejected(
            f"data.source.uri: {place}: no permission to read; grant it to this user or give credentials"
        ) from error
    except _transport_errors() as error:
        raise StoreUnavailable(f"data.source.uri: cannot read {place}: {error}; check that it is reachable") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what file systems raise besides OSError when the other side does not answer as it should."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it ships no types

    return (OSError, BotoCoreError, ClientError)
