"""Objects in the store: any fsspec URL behind a few verbs, with conditional writes where two writers may meet."""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipelines.errors import BadInput, StoreRefused, StoreUnavailable
from pipelines.locations import USE_THE_ENVIRONMENT, holds_secret
from pipelines.storage.backend import Backend, Versioned
from pipelines.storage.folder import FileBackend
from pipelines.storage.generic import FsspecBackend
from pipelines.storage.s3 import S3Backend
from pipelines.trouble import Kind, explain, is_missing_bucket

__all__ = ["Store", "Versioned"]

_CHECKS = "checks"


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

    def check(self) -> None:
        """Try each verb on an object of its own: a permission that is missing is better known before there is work.

        Raises:
            StoreRefused: names the verb that failed.
            StoreUnavailable: the store does not answer at present.
        """
        if self.local_path(_CHECKS) is not None:
            return  # a folder is readable and writable as a whole
        path = f"{_CHECKS}/{uuid.uuid4().hex}"
        has_one_winner = self.create(path, b"") and not self.create(path, b"")
        self.read(path)
        self.list(_CHECKS)
        self.delete(path)
        if not has_one_winner:
            raise StoreRefused(
                f"store: of two writers of {self.url}/{path} not exactly one won; use S3, or a server that heeds "
                f"If-None-Match, or set {self._setting} elsewhere"
            )

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether this call wrote it. Of two writers exactly one wins."""
        with self._translated("create", path):
            return self._backend.create(_checked(path), data)

    def put(self, path: str, *pieces: bytes | memoryview) -> None:
        """Write an object, replacing what is there; readers see the old or the new bytes, never a mixture.

        Args:
            path: of the object.
            pieces: its bytes, whole or one piece after the other.
        """
        with self._translated("write", path):
            self._backend.put(_checked(path), *pieces)

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

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield an object's bytes piece by piece; they are not compared with anything.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        with self._translated("read", path):
            yield from self._backend.chunks(_checked(path))

    def put_file(self, path: str, source: Path) -> None:
        """Upload a local file."""
        with self._translated("write", path):
            self._backend.put_file(_checked(path), source)

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
            refusal = StoreUnavailable if trouble.kind is Kind.AWAY else StoreRefused
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
    if protocol in ("s3", "s3a"):
        return S3Backend(rest)
    import fsspec

    try:
        filesystem = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except (ValueError, ImportError) as error:
        raise BadInput(f"{setting}: {url}: {error}; use file://, s3://, gs:// or az://") from error
    return FsspecBackend(filesystem, rest)
