"""What one look reads: counts of both arms, taken at one moment, small enough for an event."""

from __future__ import annotations

from pydantic import Field

from pipelines.formats import metrics
from pipelines.formats.headers import Traffic
from pipelines.release.ports import LATENCY_BOUNDS_MS
from pipelines.spec import Frozen

BOUNDS: dict[str, tuple[float, ...]] = {
    "headers": LATENCY_BOUNDS_MS,
    "first_token": metrics.FIRST_TOKEN_SECONDS,
    "per_token": metrics.PER_TOKEN_SECONDS,
}
"""Latencies that are compared, with the bounds of their buckets: to the headers as the router sees it, and the two that
the service measures itself."""


STABLE_OF = {Traffic.USER: Traffic.USER, Traffic.PINNED: Traffic.PINNED, Traffic.SHADOW: Traffic.USER}
"""What stable's requests of each stratum are: a mirrored request was stable's user's."""


class Compared(Frozen):
    """Exposures and bad ones of both arms in one kind of traffic."""

    canary: int = 0
    canary_bad: int = 0
    stable: int = 0
    stable_bad: int = 0


class Latencies(Frozen):
    """Latencies of both arms in one kind of traffic: bucket -> exposures."""

    canary: dict[int, int] = Field(default_factory=dict)
    stable: dict[int, int] = Field(default_factory=dict)


class Counted(Frozen):
    """One copy's requests in one kind of traffic, as the router counted them and as the copy did itself."""

    exposures: int = 0
    """Completed requests, by the router."""

    bad: int = 0
    """Those of them whose first attempt failed: the copy may have seen none of it, or each attempt."""

    left: int = 0
    """Users who left before the headers, at most: no exposures, but the copy may have counted them."""

    requests: int = 0
    """Requests that are over, by the copy's own count."""


class Reading(Frozen):
    """What one look read, both arms at one moment; small enough for an event."""

    at: float
    """By the ledger's clock."""

    cursor: str | None
    """Where the router's counts go on."""

    meters: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    """Cumulative counters of the services, for the next look's differences; not part of the event."""

    failures: dict[Traffic, Compared] = Field(default_factory=dict)
    """Requests and failed first attempts, as the router saw them."""

    invalid: dict[Traffic, Compared] = Field(default_factory=dict)
    """Answers and invalid ones, as the services counted them."""

    latencies: dict[str, Latencies] = Field(default_factory=dict)
    """By `latency/traffic`."""

    counted: dict[str, Counted] = Field(default_factory=dict)
    """By `arm/traffic`: the same requests, counted by both sides. What one side could not tell it tells later."""

    is_anew: bool = False
    """A count began anew: what both sides counted so far are no longer the same requests."""

    pairs: int = 0
    """Reference pairs scored since the last look, and those in which one of the two versions was worse."""

    canary_worse: int = 0
    stable_worse: int = 0
    is_ready: bool = True
    """The candidate's copy said that it is ready."""

    hold: str = ""
    """Why this reading is incomplete; what it does hold is sound."""
