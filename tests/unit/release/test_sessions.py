"""Sessions of users: scored once, over their beginning, in the span in which they close."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.formats.headers import Traffic
from pipelines.release.local.exposures import Exposure
from pipelines.release.local.sessions import Span, closed_sessions
from pipelines.release.ports import Arm

SPAN = Span(begun_after=0.0, window_seconds=60.0, closed_after=0.0, closed_until=1000.0)


def request(end: float, session: str | None = "ann", *, is_bad: bool = False, wait_ms: float | None = 10.0) -> Exposure:
    """Return a request that took a second."""
    return Exposure(
        arm=Arm.CANARY,
        traffic=Traffic.USER,
        is_completed=True,
        is_bad=is_bad,
        wait_ms=wait_ms,
        start=end - 1.0,
        end=end,
        session=session,
    )


def test_a_session_is_bad_when_any_request_is_and_as_slow_as_the_slowest() -> None:
    requests = [request(10), request(20, is_bad=True, wait_ms=None), request(30, wait_ms=99.0), request(12, "bob")]
    found = {session.session: (session.is_bad, session.wait_ms) for session in closed_sessions(requests, SPAN)}
    assert found == {"ann": (True, 99.0), "bob": (False, 10.0)}


def test_what_ends_after_the_window_does_not_count() -> None:
    (session,) = closed_sessions([request(10), request(70), request(70.1, is_bad=True)], SPAN)
    assert not session.is_bad


@pytest.mark.parametrize(
    ("span", "num_sessions"),
    [
        pytest.param(SPAN, 1, id="closes-in-the-span"),
        pytest.param(replace(SPAN, closed_until=69.9), 0, id="still-open"),
        pytest.param(replace(SPAN, closed_until=70.0), 1, id="closes-at-the-end"),
        pytest.param(replace(SPAN, closed_after=70.0), 0, id="was-counted-in-the-span-before"),
        pytest.param(replace(SPAN, begun_after=8.9), 1, id="begun-after-the-mark"),
        pytest.param(replace(SPAN, begun_after=9.0), 0, id="begun-before-the-mark"),
    ],
)
def test_a_session_counts_in_the_span_in_which_it_closes(span: Span, num_sessions: int) -> None:
    assert len(list(closed_sessions([request(10), request(50)], span))) == num_sessions


def test_requests_after_the_mark_do_not_make_an_earlier_session_new() -> None:
    span = replace(SPAN, begun_after=20.0)
    assert list(closed_sessions([request(10), request(30)], span)) == []


def test_only_users_with_a_session_have_sessions() -> None:
    shadow = replace(request(10), traffic=Traffic.SHADOW)
    assert list(closed_sessions([request(10, None), shadow], SPAN)) == []
