"""What a container printed, line by line with the time, for readers who may follow it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

HEARTBEAT_SECONDS = 0.5
"""How often a follower without news gets an empty part, so that it may notice that its reader left."""


@dataclass(frozen=True)
class Reading:
    """What a reader asks for; the names are those of the API."""

    follow: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None


class Log:
    """Standard output and error of one run of a container, together."""

    def __init__(self) -> None:
        self._lines: list[tuple[datetime, bytes]] = []
        self._is_complete = False
        self._changed = threading.Condition()

    def collect(self, stream: IO[bytes]) -> None:
        """Keep what comes from a stream until its end."""
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append((datetime.now(UTC), line))
                    self._changed.notify_all()
        self.close()

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def text(self) -> str:
        """Return all that was printed."""
        return b"".join(line for _, line in list(self._lines)).decode(errors="replace")

    def read(self, reading: Reading) -> Iterator[bytes]:
        """Yield the lines that a reader wants; empty parts while there is nothing new."""
        position = self._start(reading)
        left = reading.limit_bytes
        while True:
            with self._changed:
                if position == len(self._lines) and reading.follow and not self._is_complete:
                    self._changed.wait(HEARTBEAT_SECONDS)
                news, is_complete = self._lines[position:], self._is_complete
            position += len(news)
            part = b"".join(_shown(at, line, reading) for at, line in news)
            yield part if left is None else part[:left]
            left = None if left is None else max(0, left - len(part))
            if not news and (is_complete or not reading.follow):
                return

    def _start(self, reading: Reading) -> int:
        with self._changed:
            start = 0
            if reading.since is not None:
                start = sum(at < reading.since for at, _ in self._lines)
            if reading.tail_lines is not None:
                start = max(start, len(self._lines) - reading.tail_lines)
            return start


def seconds_ago(seconds: int) -> datetime:
    """Return a moment in the past."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def _shown(at: datetime, line: bytes, reading: Reading) -> bytes:
    """Return a line as the API gives it; nanoseconds as container runtimes write them."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode() + line if reading.timestamps else line
