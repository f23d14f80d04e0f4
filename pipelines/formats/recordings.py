"""Where a copy keeps its users' requests: `<home of the copy>/recorded/<worker>.jsonl`, readable by its account alone.

They are a sample, not a record: nothing is synced to the disk, and a reader passes over what is damaged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from pipelines.formats.requests import RecordedRequest, encode_requests

logger = logging.getLogger(__name__)

FOLDER = "recorded"

UNREAD = "SLIPWAY_RECORDINGS_UNREAD"
"""Variable of a copy whose recordings nobody could read, as on a cluster: it keeps none."""


def path_of(home: Path, worker: int) -> Path:
    """Return the file of a worker; the one that takes a dead worker's place has its number, and its file."""
    return home / FOLDER / f"{worker}.jsonl"


def write(path: Path, requests: Iterable[RecordedRequest]) -> None:
    """Replace a worker's file."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode_requests(requests))
    temporary.replace(path)


def read(path: Path) -> tuple[RecordedRequest, ...]:
    """Return what can be read of a worker's file, oldest first; nothing when there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    found = [request for request in map(_parsed, lines) if request is not None]
    if len(found) < len(lines):
        logger.warning("%s: %d damaged lines passed over", path, len(lines) - len(found))
    return tuple(found)


def read_all(home: Path) -> tuple[RecordedRequest, ...]:
    """Return what all workers of a copy have recorded."""
    return tuple(request for path in sorted((home / FOLDER).glob("*.jsonl")) for request in read(path))


def _parsed(line: bytes) -> RecordedRequest | None:
    try:
        return RecordedRequest.model_validate_json(line)
    except ValidationError:
        return None
