"""From raw samples to what rose between two scrapes, and why that may be incomplete."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from pipelines.release.kubernetes.prometheus import MILLI, Series

CLOCK_TOLERANCE_MS = 2000
"""A proxy tells its age in whole seconds."""


class Incomplete(Exception):
    """Counts of a time are lost; the message says why."""


@dataclass(frozen=True)
class Proxy:
    """One proxy's scrapes that count."""

    name: str
    base: int | None
    """Scrape from which counting begins; None: the proxy began later, all its counters from 0."""

    end: int
    """Last scrape that counts."""


@dataclass(frozen=True)
class Rise:
    """By how much a counter rose up to a scrape, since the one before."""

    proxy: str
    at: int
    labels: Mapping[str, str]
    amount: int


def scraped_at(series: Iterable[Series], instance: str) -> dict[str, list[int]]:
    """Return every proxy's scrapes, from series that are in each of them."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for entry in series:
        found[entry.labels.get(instance, "")].update(at for at, _ in entry.points)
    return {name: sorted(times) for name, times in found.items() if times}


def check_lives(uptimes: Iterable[Series], proxies: Mapping[str, Proxy], since: int, instance: str) -> None:
    """See that every proxy lived on from its first scrape that counts, or began after the counting did.

    Args:
        uptimes: seconds since the proxies began.
        proxies: by name.
        since: when the counting began.
        instance: label that names a proxy.

    Raises:
        Incomplete: when one began anew, or was there before it was scraped.
    """
    points = {entry.labels.get(instance, ""): entry.points for entry in uptimes}
    for name, proxy in proxies.items():
        seen = [(at, age) for at, age in points.get(name, ()) if at <= proxy.end and at >= (proxy.base or 0)]
        if not seen:
            raise Incomplete(f"proxy {name} does not say how long it has lived")
        if any(age < before for (_, before), (_, age) in pairwise(seen)):
            raise Incomplete(f"proxy {name} began anew; what it had counted last is lost")
        first, age = seen[0]
        if proxy.base is None and first - age * MILLI < since - CLOCK_TOLERANCE_MS:
            raise Incomplete(f"proxy {name} was not scraped when the counting began")


def rises(series: Iterable[Series], proxies: Mapping[str, Proxy], instance: str) -> Iterator[Rise]:
    """Yield by how much each counter rose from scrape to scrape.

    A counter that appears later than its proxy's first scrape began at 0: Envoy makes many with their first event.

    Raises:
        Incomplete: when one fell, or is no number.
    """
    for entry in series:
        proxy = proxies.get(entry.labels.get(instance, ""))
        if proxy is None:
            continue
        counted = [point for point in entry.points if (proxy.base or 0) <= point[0] <= proxy.end]
        if any(not math.isfinite(value) for _, value in counted):
            raise Incomplete(f"proxy {proxy.name}: {_name(entry)} is no number")
        if counted and counted[0][0] != proxy.base:
            counted.insert(0, (0, 0.0))
        for (_, before), (at, value) in pairwise(counted):
            if value < before:
                raise Incomplete(f"proxy {proxy.name}: {_name(entry)} fell from {before:g} to {value:g}")
            if value > before:
                yield Rise(proxy.name, at, entry.labels, round(value - before))


def _name(series: Series) -> str:
    return series.labels.get("__name__", "a counter")
