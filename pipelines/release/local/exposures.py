"""From a line of the access log to what it says about a version.

Retries hide failures from users, and must not hide them from the decision. So a request is bad when its first attempt
failed, whatever the user got in the end:

- the copy that should have answered was passed over as not healthy, or the request was tried again;
- the answer was 5xx; or 429, with which a copy refuses work that it cannot keep up with. Other 4xx are the user's;
- no answer came, or it broke off after its headers, and not because the user went away.

A user who goes away before the headers says nothing about failures, but something about patience: the wait counts as a
latency of at least that, and not as an exposure.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.formats.headers import Traffic
from pipelines.release.local import clusters
from pipelines.release.local.listeners import MIRROR_ROUTE
from pipelines.release.local.resources import PIN_CANARY, PIN_STABLE, USERS
from pipelines.release.ports import LATENCY_BOUNDS_MS, Arm, Tally

TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
USER_LEFT = "DC"
"""Flag of a request whose user closed the connection."""

NO_ANSWER = frozenset({"UH", "UF", "UO", "URX", "NC", "UT", "LR", "UR", "UC", "UPE"})
"""Flags of requests that the copy did not answer, or not to the end."""

_TRAFFIC = {
    USERS: Traffic.USER,
    PIN_STABLE: Traffic.PINNED,
    PIN_CANARY: Traffic.PINNED,
    MIRROR_ROUTE: Traffic.SHADOW,
}


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one request, or one session, says about one arm."""

    arm: Arm
    traffic: Traffic
    is_completed: bool
    """Whether it counts as an exposure; a user who left before the headers does not."""

    is_bad: bool
    wait_ms: float | None
    """Time to the headers, or until the user left; None when the first attempt brought none."""

    start: float
    """When it began, in seconds since the epoch."""

    end: float
    session: str | None = None
    """Hash of the session."""


def parse_line(line: bytes) -> Exposure | None:
    """Return what a line says, or None when no version was asked.

    Raises:
        ValueError: when it is not a line that Envoy wrote to its end.
    """
    try:
        found = json.loads(line)
        return _exposure(found)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a whole line of an access log: {line[:80]!r}") from error


def tally(exposures: Iterable[Exposure]) -> Mapping[tuple[Arm, Traffic], Tally]:
    """Return the sums per arm and traffic; what did not happen is not in them."""
    bins: defaultdict[tuple[Arm, Traffic], _Bin] = defaultdict(_Bin)
    for exposure in exposures:
        bins[exposure.arm, exposure.traffic].add(exposure)
    return {key: found.tally() for key, found in bins.items()}


class _Bin:
    """A tally that grows."""

    def __init__(self) -> None:
        self.completed = 0
        self.bad = 0
        self.latency = [0] * (len(LATENCY_BOUNDS_MS) + 1)

    def add(self, exposure: Exposure) -> None:
        self.completed += exposure.is_completed
        self.bad += exposure.is_bad
        if exposure.wait_ms is not None:
            self.latency[bisect_left(LATENCY_BOUNDS_MS, exposure.wait_ms)] += 1

    def tally(self) -> Tally:
        return Tally(self.completed, self.bad, tuple(self.latency))


def _exposure(found: Mapping[str, object]) -> Exposure | None:
    traffic = _TRAFFIC.get(str(found["route"]))
    cluster = found["cluster"]
    if traffic is None or not isinstance(cluster, str):
        return None
    start, duration_ms = float(str(found["start"])), float(str(found["duration_ms"]))
    headers_us = found["headers_us"]
    wait_ms = None if headers_us is None else max(0.0, float(str(headers_us)) / 1000.0)
    is_moved = _is_moved(found, cluster)
    has_left = USER_LEFT in str(found["flags"]).split(",")
    is_cancelled = has_left and wait_ms is None and not is_moved
    if is_moved:
        wait_ms = None
    elif is_cancelled:
        wait_ms = duration_ms
    return Exposure(
        arm=_arm(str(found["route"]), cluster),
        traffic=traffic,
        is_completed=not is_cancelled,
        is_bad=is_moved or (not has_left and _is_failed(found)),
        wait_ms=wait_ms,
        start=start,
        end=start + duration_ms / 1000.0,
        session=None if found["session"] is None else str(found["session"]),
    )


def _arm(route: str, cluster: str) -> Arm:
    is_canary = route in (PIN_CANARY, MIRROR_ROUTE) or clusters.is_canary_leg(cluster)
    return Arm.CANARY if is_canary else Arm.STABLE


def _is_moved(found: Mapping[str, object], cluster: str) -> bool:
    """Say whether the copy that should have answered failed to, and another attempt was made or another copy asked."""
    return int(str(found["attempts"])) > 1 or found["copy"] not in (None, clusters.copy_of(cluster))


def _is_failed(found: Mapping[str, object]) -> bool:
    status = int(str(found["status"]))
    is_refused = status >= SERVER_ERROR or status == TOO_MANY_REQUESTS
    return is_refused or not NO_ANSWER.isdisjoint(str(found["flags"]).split(","))
