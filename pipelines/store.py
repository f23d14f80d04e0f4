"""Objects in the store: any fsspec URL behind a few verbs, with conditional writes where two writers may meet."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from pipelines.errors import BadInput, StoreUnavailable
from pipelines.locations import USE_THE_ENVIRONMENT, holds_secret
from pipelines.trouble import Kind, explain, is_missing_bucket

_MAX_RACES = 100
"""Attempts to write into a folder that others remove."""


@dataclass(frozen=True)
class Versioned:
    """An object's bytes with the tag that a conditional replace must present."""

    data: bytes
    tag: str


class Backend(Protocol):
    """What a kind of storage must do; everything else is built on these verbs."""

    def create(self, path: str, data: bytes) -> bool: ...
    def put(self, path: str, data: bytes) -> None: ...
    def replace(self, path: str, data: bytes, tag: str) -> bool: ...
    def read(self, path: str) -> Versioned | None: ...
    def put_file(self, path: str, source: Path) -> None: ...
    def get_file(self, path: str, target: Path) -> None: ...
    def list(self, prefix: str) -> list[str]: ...
    def delete(self, path: str) -> None: ...
    def modified(self, path: str) -> float: ...
    def local_path(self, path: str) -> Path | None: ...


class Store:
    """A tree of named objects; paths are relative, with forward slashes."""

    def __init__(self, url: str, *, setting: str = "SLIPWAY_STORE") -> None:
        """Open the store at an fsspec URL such as `file:///var/slipway` or `s3://bucket/prefix`.

        Args:
            url: where it is.
            setting: variable that a person would change; errors name it.

        Raises:
            BadInput: when the URL's protocol is unknown, or the URL names no bucket or folder or holds a secret.
        """
        self.url = url.rstrip("/")
        self._setting = setting
        self._backend = _open_backend(self.url, setting)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether this call wrote it. Of two writers exactly one wins."""
        with self._translated("create", path):
            return self._backend.create(_checked(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing what is there; readers see the old or the new bytes, never a mixture."""
        with self._translated("write", path):
            self._backend.put(_checked(path), data)

    def replace(self, path: str, data: bytes, tag: str) -> bool:
        """Replace an object if it still is the version that `tag` names; return whether it was."""
        with self._translated("replace", path):
            return self._backend.replace(_checked(path), data, tag)

    def read(self, path: str) -> bytes | None:
        """Return an object's bytes, or None when there is no such object."""
        versioned = self.read_versioned(path)
        return None if versioned is None else versioned.data

    def read_versioned(self, path: str) -> Versioned | None:
        """Return an object's bytes and tag, or None when there is no such object."""
        with self._translated("read", path):
            return self._backend.read(_checked(path))

    def put_file(self, path: str, source: Path) -> None:
        """Upload a local file."""
        with self._translated("write", path):
            self._backend.put_file(_checked(path), source)

    def get_file(self, path: str, target: Path) -> None:
        """Download an object into a local file.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        with self._translated("read", path):
            self._backend.get_file(_checked(path), target)

    def list(self, prefix: str) -> list[str]:
        """Return the sorted paths of all objects below a folder."""
        with self._translated("list", prefix):
            return sorted(self._backend.list(_checked(prefix)))

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._translated("delete", path):
            self._backend.delete(_checked(path))

    def modified(self, path: str) -> float:
        """Return when an object was last written, in seconds since the epoch by the store's clock.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        with self._translated("read", path):
            return self._backend.modified(_checked(path))

    def local_path(self, path: str) -> Path | None:
        """Return where an object or folder lies on this machine, or None when the store is remote."""
        return self._backend.local_path(_checked(path))

    def relative(self, uri: str) -> str:
        """Return a path in this store from an absolute or relative URI.

        Raises:
            BadInput: when an absolute URI lies outside this store.
        """
        if "://" not in uri:
            return _checked(uri)
        if not uri.startswith(self.url + "/"):
            raise BadInput(f"uri: {uri} is not in the store {self.url}; set {self._setting} to the store that holds it")
        return _checked(uri[len(self.url) + 1 :])

    @contextlib.contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        """Turn what file systems and object stores raise into one plain error; a missing file to read stays itself."""
        try:
            yield
        except Exception as error:
            trouble = explain(error)
            if trouble is None or (verb == "read" and _is_missing_object(error)):
                raise
            hint = _HINTS.get(getattr(error, "errno", None) or 0, f"{trouble.way_out}, or set {{setting}} elsewhere")
            reason = f"{trouble.reason}; {hint.format(setting=self._setting)}"
            refusal = BadInput if trouble.kind is Kind.MISCONFIGURED else StoreUnavailable
            raise refusal(f"store: cannot {verb} {self.url}/{path}: {reason}") from error


_HINTS = {
    errno.ENOSPC: "free space or move the store ({setting}), then clear the task",
    errno.EROFS: "the file system is read-only: mount it writable or set {setting} elsewhere",
    errno.EACCES: "give this user write permission or set {setting} elsewhere",
    errno.EPERM: "give this user write permission or set {setting} elsewhere",
}


def _is_missing_object(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and not is_missing_bucket(error)


def _checked(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise BadInput(f"path: {path!r} must be relative and must not leave the store")
    return "/".join(parts)


def _open_backend(url: str, setting: str) -> Backend:
    if holds_secret(url):
        raise BadInput(f"{setting}: the URL holds a secret, and URLs are logged; {USE_THE_ENVIRONMENT}")
    protocol, separator, rest = url.partition("://")
    if url.endswith(":"):  # what is left of `s3://` without its slashes
        raise BadInput(f"{setting}: {url}// names no bucket or folder; write it as s3://bucket/prefix")
    if not separator:
        return FileBackend(Path(url))
    if protocol == "file":
        return FileBackend(Path(rest))
    import fsspec

    try:
        filesystem = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except (ValueError, ImportError) as error:
        raise BadInput(f"{setting}: {url}: {error}; use file://, s3://, gs:// or az://") from error
    return FsspecBackend(filesystem, rest)


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

    def put(self, path: str, data: bytes) -> None:
        self._write_temporary(path, [data]).replace(self._root / path)

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

    def put_file(self, path: str, source: Path) -> None:
        with source.open("rb") as reader:
            chunks = iter(lambda: reader.read(1 << 20), b"")
            self._write_temporary(path, chunks).replace(self._root / path)

    def get_file(self, path: str, target: Path) -> None:
        with (self._root / path).open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(1 << 20):
                writer.write(chunk)

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

    def _write_temporary(self, path: str, chunks: Iterable[bytes]) -> Path:
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


class FsspecBackend:
    """An object store by fsspec; conditional writes are the server's (S3: If-None-Match and If-Match)."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._full(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(self._full(path), data)

    def replace(self, path: str, data: bytes, tag: str) -> bool:
        if "s3" not in self._protocols():
            raise BadInput(f"{self._root}: leases need a store with conditional replacement; use file:// or s3://")
        bucket, _, key = self._full(path).partition("/")
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfMatch=tag)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError as error:
            if "PreconditionFailed" in repr(error) or "412" in str(error) or "pre-condition" in str(error).lower():
                return False
            raise
        return True

    def read(self, path: str) -> Versioned | None:
        full = self._full(path)
        if "s3" in self._protocols():
            return self._read_s3(full)
        try:
            return Versioned(self._fs.cat_file(full), "")
        except FileNotFoundError:
            return None

    def put_file(self, path: str, source: Path) -> None:
        self._fs.put_file(str(source), self._full(path))

    def get_file(self, path: str, target: Path) -> None:
        self._fs.get_file(self._full(path), str(target))

    def list(self, prefix: str) -> list[str]:
        root = self._root.rstrip("/") + "/"
        folder = f"{root}{prefix}/"  # s3fs lists the name itself when nothing is below it, or was a moment ago
        names = (found.lstrip("/") for found in self._fs.find(self._full(prefix)))
        return [name.removeprefix(root) for name in names if name.startswith(folder)]

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def modified(self, path: str) -> float:
        return float(self._fs.modified(self._full(path)).timestamp())

    def local_path(self, path: str) -> Path | None:
        return None

    def _read_s3(self, full: str) -> Versioned | None:
        """Read body and ETag in one request, so that they belong together."""
        bucket, _, key = full.partition("/")
        try:
            answer = self._fs.call_s3("get_object", Bucket=bucket, Key=key)
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise
            return None
        from fsspec.asyn import sync

        return Versioned(sync(self._fs.loop, answer["Body"].read), answer["ETag"])

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _protocols(self) -> tuple[str, ...]:
        protocol = self._fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)
