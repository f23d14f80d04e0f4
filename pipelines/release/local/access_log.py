"""The access log of a service as files: whole lines between two positions, over rotations.

Envoy writes to `<service>.log`. A full one is renamed to `<service>.<serial>.log`; the current one has the serial after
the last of these, and begins to exist with its first line: until then the last full one is the end of the log. The two
latest full ones are kept: for readers that are behind, and as the memory of sessions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 32 * 2**20
"""A file that is larger is renamed; about 150,000 requests."""

NUM_KEPT = 2
_TAIL_BYTES = 64 * 2**10
_UNBORN = 0
"""Stands for the inode of a file that does not exist yet."""


@dataclass(frozen=True)
class Position:
    """A place between two lines."""

    serial: int
    inode: int
    offset: int


class AccessLog:
    """The files of one service; one process at a time may use it."""

    def __init__(self, path: Path, reopen: Callable[[], None], max_bytes: int = MAX_BYTES) -> None:
        """Use the log at a path.

        Args:
            path: of the current file.
            reopen: makes Envoy open its log files anew, by their names.
            max_bytes: see `MAX_BYTES`.
        """
        self._path = path
        self._reopen = reopen
        self._max_bytes = max_bytes

    def end(self) -> Position:
        """Return the position after the last whole line."""
        serial = self._current()
        if not self._path.exists():
            self._reopen()
            serial -= 1
        path = self._file(serial)
        if path is None:
            return Position(self._current(), _UNBORN, 0)
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            base = max(0, found.st_size - _TAIL_BYTES)
            stream.seek(base)
            tail = stream.read(found.st_size - base)
        return Position(serial, found.st_ino, base + tail.rfind(b"\n") + 1)

    def why_lost(self, start: Position) -> str:
        """Return why lines after a position are lost; empty when they are all there."""
        if start.inode == _UNBORN:
            return ""
        path = self._file(start.serial)
        found = path.stat() if path else None
        if found is None or found.st_ino != start.inode or found.st_size < start.offset:
            return "the access log was removed, or renamed too often, since the last reading"
        return ""

    def lines(self, start: Position | None, end: Position) -> Iterator[bytes]:
        """Yield the lines between two positions; without a start, from the oldest that is kept."""
        begin = start or Position(min([end.serial, *self._full()]), 0, 0)
        for serial in range(begin.serial, end.serial + 1):
            path = self._file(serial)
            if path is None:
                continue
            with path.open("rb") as stream:
                stream.seek(begin.offset if serial == begin.serial else 0)
                data = stream.read(end.offset - stream.tell() if serial == end.serial else -1)
            yield from data.splitlines()

    def rotate(self) -> None:
        """Rename the current file when it is too large, and remove the oldest."""
        if not self._path.exists() or self._path.stat().st_size < self._max_bytes:
            return
        self._path.rename(self._full_path(self._current()))
        self._reopen()
        for serial in self._full()[:-NUM_KEPT]:
            self._full_path(serial).unlink(missing_ok=True)

    def _current(self) -> int:
        return max(self._full(), default=0) + 1

    def _full(self) -> list[int]:
        names = [path.name.split(".") for path in self._path.parent.glob(f"{self._path.stem}.*.log")]
        return sorted(int(serial) for _, serial, _ in names)

    def _file(self, serial: int) -> Path | None:
        path = self._path if serial == self._current() else self._full_path(serial)
        return path if path.exists() else None

    def _full_path(self, serial: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{serial}.log")
