"""Objects whose digest is known: read until they are right, because what damages them may be the line only."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from pipelines.store import Store

logger = logging.getLogger(__name__)

_READINGS = 3
"""Times that an object is read before it counts as damaged."""


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
