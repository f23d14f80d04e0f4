"""Objects whose digest is known: read until they are right, because what damages them may be the line only."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipelines.errors import StoreUnavailable
from pipelines.store import Store

logger = logging.getLogger(__name__)

_READINGS = 3
"""Times that an object is read before it counts as damaged."""

_PIECE_BYTES = 1 << 20

Landmarks = list[bytes]
"""Of an object that was right: the digest of all its bytes up to the end of each piece."""


def download(store: Store, path: str, sha256: str, target: Path) -> bool:
    """Write an object's bytes to a local file; return whether they are right.

    Raises:
        FileNotFoundError: when there is no such object.
    """

    def once() -> str:
        with target.open("wb") as file:
            return _digest(store, path, file.write)

    return _until(once, path, sha256)


def read(store: Store, path: str, sha256: str) -> bytes | None:
    """Return a small object's bytes, or None when they are not right.

    Raises:
        FileNotFoundError: when there is no such object.
    """
    pieces: list[bytes] = []

    def once() -> str:
        pieces.clear()
        return _digest(store, path, pieces.append)

    return b"".join(pieces) if _until(once, path, sha256) else None


def is_sound(store: Store, path: str, sha256: str) -> bool:
    """Read an object whole, and return whether its bytes are right.

    Raises:
        FileNotFoundError: when there is no such object.
    """
    return _until(lambda: _digest(store, path, len), path, sha256)


def landmarks(store: Store, path: str, sha256: str) -> Landmarks | None:
    """Read an object whole and keep none of it; return by what `pieces` knows it again, or None when it is not right.

    Raises:
        FileNotFoundError: when there is no such object.
    """
    found: Landmarks = []

    def once() -> str:
        found.clear()
        digest = hashlib.sha256()
        for piece in _cut(store.chunks(path)):
            digest.update(piece)
            found.append(digest.digest())
        return digest.hexdigest()

    return found if _until(once, path, sha256) else None


def pieces(store: Store, path: str, known: Landmarks) -> Iterator[bytes]:
    """Yield the bytes of an object once more, piece by piece, none before it is known to be what it was.

    Args:
        store: that holds it.
        path: of the object.
        known: what `landmarks` returned.

    Raises:
        StoreUnavailable: when the object is no longer what it was.
    """
    done = 0
    for number in range(1, _READINGS + 1):
        for piece in itertools.islice(_same(store, path, known), done, None):
            done += 1
            yield piece
        if done == len(known):
            return
        logger.warning("%s has other bytes than a moment ago (reading %d of %d)", path, number, _READINGS)
    raise StoreUnavailable(f"store: {path} changed while it was read; let nobody write there, then clear the task")


def _same(store: Store, path: str, known: Landmarks) -> Iterator[bytes]:
    """Yield an object's pieces up to the first that is not what it was."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError):
        for piece, expected in zip(_cut(store.chunks(path)), known, strict=False):
            digest.update(piece)
            if digest.digest() != expected:
                return
            yield piece


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield bytes in pieces of one size, whatever the size in which they come; the last may be smaller."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= _PIECE_BYTES:
            yield bytes(rest[:_PIECE_BYTES])
            del rest[:_PIECE_BYTES]
    if rest:
        yield bytes(rest)


def _until(digest: Callable[[], str], path: str, sha256: str) -> bool:
    for number in range(1, _READINGS + 1):
        if digest() == sha256:
            return True
        logger.warning("%s has other bytes than its digest says (reading %d of %d)", path, number, _READINGS)
    return False


def _digest(store: Store, path: str, take: Callable[[bytes], object]) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(path):
        digest.update(chunk)
        take(chunk)
    return digest.hexdigest()
