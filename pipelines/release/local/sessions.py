"""Sessions of users, from their requests: each is scored once, over its beginning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipelines.formats.headers import Traffic
from pipelines.release.local.exposures import Exposure


@dataclass(frozen=True)
class Span:
    """Which sessions are asked for, in seconds since the epoch."""

    begun_after: float
    window_seconds: float
    closed_after: float
    closed_until: float


def closed_sessions(exposures: Iterable[Exposure], span: Span) -> Iterator[Exposure]:
    """Yield one exposure per session that closed in a span.

    A session begins with its first request that ended, and closes `window_seconds` after that one's end; what ends
    later does not change it any more, so that it counts once and always the same. It is bad when any of its requests
    is, and as slow as the slowest. Its arm is that of the first request: affinity keeps the others there. A session
    whose earlier requests are no longer in the log counts as new.

    Args:
        exposures: everything that is still in the log, in its order; what is no user's, or has no session, is skipped.
        span: begun and closed when.
    """
    opened: dict[str, Exposure] = {}
    for exposure in exposures:
        if exposure.session is None or exposure.traffic is not Traffic.USER:
            continue
        first = opened.setdefault(exposure.session, exposure)
        if first is not exposure and exposure.end <= first.end + span.window_seconds:
            opened[exposure.session] = _joined(first, exposure)
    for session in opened.values():
        closes = session.end + span.window_seconds
        if session.start > span.begun_after and span.closed_after < closes <= span.closed_until:
            yield session


def _joined(session: Exposure, request: Exposure) -> Exposure:
    waits = [wait for wait in (session.wait_ms, request.wait_ms) if wait is not None]
    return replace(
        session,
        is_completed=session.is_completed or request.is_completed,
        is_bad=session.is_bad or request.is_bad,
        wait_ms=max(waits, default=None),
    )
