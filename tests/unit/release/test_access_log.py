"""The files of an access log and cursors into them: what is lost is said, what is there is read once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.formats.headers import Traffic
from pipelines.release.local.access_log import NUM_KEPT, AccessLog
from pipelines.release.local.counts import SETTLE_SECONDS, Cursor, Writer, count
from pipelines.release.ports import Arm, Counts, Sessions

WRITER = Writer(started_us=5_000_000, num_failed=0)


class FakeWriter:
    """Writes lines as Envoy does: to the file that it opened last, until it is told to open it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("ab")
        self.must_reopen = False
        self.log = AccessLog(path, self.ask_to_reopen, max_bytes=1)

    def ask_to_reopen(self) -> None:
        self.must_reopen = True

    def write(self, text: bytes) -> None:
        if self.must_reopen:
            self.stream = self.path.open("ab")
            self.must_reopen = False
        self.stream.write(text)
        self.stream.flush()

    def request(self, end: float = 10.0, session: str | None = None) -> None:
        fields = {"route": "users", "cluster": "docs-one", "copy": "docs-one", "attempts": 1, "status": 200}
        times = {"start": f"{end}", "duration_ms": 0, "headers_us": 1000}
        self.write(json.dumps({**fields, **times, "flags": "-", "session": session}).encode() + b"\n")


@pytest.fixture
def writer(tmp_path: Path) -> FakeWriter:
    return FakeWriter(tmp_path / "docs.log")


def counted(writer: FakeWriter, since: str | None, *, by: Writer = WRITER, now: float = 100.0) -> Counts:
    return count(writer.log, by, since, None, clock=lambda: now)


def num_users(counts: Counts) -> int:
    found = counts.tallies.get((Arm.STABLE, Traffic.USER))
    return found.exposures if found else 0


def test_a_line_that_is_being_written_is_read_when_it_is_whole(writer: FakeWriter) -> None:
    since = counted(writer, None).cursor
    writer.request()
    writer.write(b'{"route": ')
    first = counted(writer, since)
    assert (num_users(first), first.gap) == (1, "")

    writer.write(b'null, "cluster": null}\n')
    second = counted(writer, first.cursor)
    assert (num_users(second), second.gap) == (0, "")


def test_lines_are_read_once_over_full_files(writer: FakeWriter) -> None:
    cursor = since = counted(writer, None).cursor
    seen = 0
    for _ in range(NUM_KEPT):
        writer.request()
        writer.log.rotate()
        writer.request()  # goes to the new file
        found = counted(writer, cursor)
        seen, cursor = seen + num_users(found), found.cursor
    assert seen == num_users(counted(writer, since)) == 2 * NUM_KEPT


def test_a_line_that_was_under_way_when_its_file_was_renamed_is_read(writer: FakeWriter) -> None:
    since = counted(writer, None).cursor
    writer.request()
    writer.log.rotate()
    first = counted(writer, since)
    writer.must_reopen = False  # the last line still goes to the renamed file
    writer.request()
    writer.must_reopen = True
    writer.request()

    assert (num_users(first), num_users(counted(writer, first.cursor))) == (1, 2)


def test_a_reader_that_is_too_far_behind_is_told(writer: FakeWriter) -> None:
    since = counted(writer, None).cursor
    for _ in range(NUM_KEPT + 1):
        writer.request()
        writer.log.rotate()
    found = counted(writer, since)

    assert "renamed too often" in found.gap
    assert found.tallies == {}
    assert len(list(writer.path.parent.glob("docs.*.log"))) == NUM_KEPT


def test_a_log_that_was_removed_or_shortened_is_a_gap(writer: FakeWriter) -> None:
    writer.request()
    since = counted(writer, None).cursor
    writer.path.write_bytes(b"")
    assert "removed" in counted(writer, since).gap

    writer.path.unlink()
    found = counted(writer, since)
    assert "removed" in found.gap
    writer.request()
    assert num_users(counted(writer, found.cursor)) == 1


@pytest.mark.parametrize(
    ("now", "gap"),
    [
        pytest.param(replace(WRITER, started_us=6_000_000), "Envoy began anew", id="restart"),
        pytest.param(replace(WRITER, num_failed=3), "failed to write to a log 3 times", id="disk-full"),
    ],
)
def test_what_the_writer_may_have_lost_is_a_gap(writer: FakeWriter, now: Writer, gap: str) -> None:
    since = counted(writer, None).cursor
    writer.request()
    found = counted(writer, since, by=now)

    assert gap in found.gap
    assert counted(writer, found.cursor, by=now).gap == ""


def test_a_damaged_line_is_a_gap(writer: FakeWriter) -> None:
    since = counted(writer, None).cursor
    writer.write(b'{"route": "us{"route": "users"}\n')
    assert "not a whole line" in counted(writer, since).gap


def test_a_cursor_survives_as_a_text_and_another_text_is_none(writer: FakeWriter) -> None:
    cursor = Cursor(writer.log.end(), WRITER, 7)
    assert Cursor.parse(str(cursor)) == cursor
    assert Cursor.parse("1:2") is None
    assert "was not made by this router" in counted(writer, "1:2").gap


def test_sessions_count_once_though_the_clock_goes_back(writer: FakeWriter) -> None:
    start = counted(writer, None, now=10.0).cursor
    sessions = Sessions(after=start, window_seconds=5.0)

    def looked(since: str, now: float) -> tuple[int, str]:
        found = count(writer.log, WRITER, since, sessions, clock=lambda: now)
        return num_users(found), found.cursor

    writer.request(11.0, "ann")
    open_still, cursor = looked(start, 16.0 + SETTLE_SECONDS - 0.1)
    closed, cursor = looked(cursor, 16.0 + SETTLE_SECONDS)
    gone_back, cursor = looked(cursor, 12.0)
    again, cursor = looked(cursor, 30.0)
    assert (open_still, closed, gone_back, again) == (0, 1, 0, 0)


def test_sessions_that_began_before_envoy_did_are_left_out(writer: FakeWriter) -> None:
    start = counted(writer, None, now=10.0).cursor
    writer.request(11.0, "ann")
    anew = replace(WRITER, started_us=12_000_000)
    gap = count(writer.log, anew, start, Sessions(start, 5.0), clock=lambda: 12.5)
    writer.request(13.0, "bob")
    found = count(writer.log, anew, gap.cursor, Sessions(start, 5.0), clock=lambda: 30.0)

    assert "began anew" in gap.gap
    assert num_users(found) == 1, "of the other, requests may be missing"
