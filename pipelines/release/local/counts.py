"""What happened at an endpoint since a cursor, from its access log, and why that may be incomplete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass

from pipelines.formats.headers import Traffic
from pipelines.release.local.access_log import AccessLog, Position
from pipelines.release.local.exposures import Exposure, parse_line, tally
from pipelines.release.local.sessions import Span, closed_sessions
from pipelines.release.ports import Counts, Sessions

SETTLE_SECONDS = 1.0
"""A session closes so much later, when the lines that belong to it are surely in the log."""

_MICRO = 1_000_000


@dataclass(frozen=True)
class Writer:
    """The Envoy that writes the log at present."""

    started_us: int
    num_failed: int
    """Writes that failed since then."""


@dataclass(frozen=True)
class Cursor:
    """A moment in a service's access log."""

    position: Position
    writer: Writer
    time_us: int

    def __str__(self) -> str:
        return ":".join(str(number) for number in (*astuple(self.position), *astuple(self.writer), self.time_us))

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor that was written as a text, or None when it is none of ours."""
        try:
            serial, inode, offset, started_us, num_failed, time_us = (int(part) for part in text.split(":"))
        except ValueError:
            return None
        return cls(Position(serial, inode, offset), Writer(started_us, num_failed), time_us)


def count(
    log: AccessLog,
    writer: Writer,
    since: str | None,
    sessions: Sessions | None,
    clock: Callable[[], float] = time.time,
) -> Counts:
    """Return what `pipelines.release.ports.Router.counts` promises.

    Args:
        log: of the service.
        writer: asked for before, so that one who begins anew in the meantime is noticed by the next reading.
        since: cursor, or None.
        sessions: how sessions are counted; None: users' requests are.
        clock: seconds since the epoch; Envoy's is the same.
    """
    start = None if since is None else Cursor.parse(since)
    gap = _gap(log, start, writer) if start else ""  # before the end is asked for, which makes a removed log anew
    end, now_us = log.end(), int(clock() * _MICRO)
    if start is None:
        refused = f"cursor {since!r} was not made by this router" if since is not None else ""
        return Counts(str(Cursor(end, writer, now_us)), gap=refused)
    cursor = Cursor(end, writer, max(now_us, start.time_us))  # a session must not close twice when the clock goes back
    if gap:
        return Counts(str(cursor), gap=gap)
    try:
        requests = list(_parsed(log.lines(start.position, end)))
    except ValueError as error:
        return Counts(str(cursor), gap=str(error))
    if sessions is None:
        return Counts(str(cursor), tally(requests))
    others = (request for request in requests if request.traffic is not Traffic.USER)
    span = _span(start, cursor, sessions)
    kept = _readable(log.lines(None, end))
    return Counts(str(cursor), tally([*others, *closed_sessions(kept, span)]))


def _gap(log: AccessLog, start: Cursor, writer: Writer) -> str:
    if start.writer.started_us != writer.started_us:
        return "Envoy began anew; what it had not written down is lost"
    if start.writer.num_failed != writer.num_failed:
        return f"Envoy failed to write to a log {writer.num_failed - start.writer.num_failed} times; is the disk full?"
    return log.why_lost(start.position)


def _span(start: Cursor, end: Cursor, sessions: Sessions) -> Span:
    after = Cursor.parse(sessions.after) or end
    return Span(
        begun_after=max(after.time_us, end.writer.started_us) / _MICRO,  # before that, requests may be missing
        window_seconds=sessions.window_seconds,
        closed_after=start.time_us / _MICRO - SETTLE_SECONDS,
        closed_until=end.time_us / _MICRO - SETTLE_SECONDS,
    )


def _parsed(lines: Iterable[bytes]) -> Iterator[Exposure]:
    for line in lines:
        exposure = parse_line(line)
        if exposure is not None:
            yield exposure


def _readable(lines: Iterable[bytes]) -> Iterator[Exposure]:
    """Yield what can be read; a line that was cut off belongs to a time that has its own gap."""
    for line in lines:
        try:
            yield from _parsed([line])
        except ValueError:
            continue
