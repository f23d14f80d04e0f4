"""What happened at an endpoint since a cursor, from the counters that the Gateway's proxies tell Prometheus.

**Which counters.** Envoy counts per cluster. The routes give every arm and kind of traffic a cluster of its own
(`pipelines.release.kubernetes.routes`), and mirrored requests have one by nature; so `envoy_cluster_name` tells them
apart. A service's questions about copies are a rule of their own, and count nowhere.

**Exposures and bad ones.** `envoy_cluster_upstream_rq` has one count per request, by the code of its final answer (or
of the failure that Envoy answered for the copy), when the headers are there. A request is bad when its first attempt
failed: by a 5xx or 429 at the end, or when a retry was what made it good (`..._retry_success`). Attempts that were
tried again are in other counters (`..._upstream_rq_total`, `envoy_cluster_retry_upstream_rq`), so nothing counts
twice. A stream that breaks after its headers was counted as good; it shows as a connection that the copy closed under
a request. Connections that broke before the headers are in that counter too, and as 503 or as a retry: only what is
left of the rise between two scrapes counts as broken, which is never more than there were. A user who leaves before
the headers is in none of these.

**Latency.** `envoy_cluster_upstream_rq_time` is the time from the end of a request to the end of its answer. For
answers in one piece that is the time to their headers but for the transfer; for streams the answer's length is part of
it, in both arms. Its buckets are Envoy's, coarser than ours: each goes, whole, to ours that its upper bound falls
into, the same for both arms. Envoy merges histograms every five seconds, so a latency may show a scrape later than its
request.

**Time.** A cursor is a moment on Prometheus' clock. `at:` is that of a scrape: the counting goes on from the last
scrape of each proxy up to it. `after:` lies between scrapes: it begins with each proxy's first scrape after it, so
that nothing from before counts. All proxies are counted up to one moment, to which each of them was scraped; both arms
of a proxy are in one scrape. When the route changed since the cursor, the counting ends before the change, and the new
cursor is after the moment at which every proxy had the new route: a scrape interval that saw both weights belongs to
neither.

**Incomplete counts.** A gap is what is lost for good: a proxy that began anew or is gone, a counter that fell, a value
that is no number, samples that Prometheus has forgotten. What only is not known yet (a late scrape, a Prometheus that
does not answer) is `RouterUnavailable`: the cursor stays, and the next reading has it all, for counters go on
counting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from pipelines.formats.headers import Traffic
from pipelines.release.kubernetes.gateway import CountsOf
from pipelines.release.kubernetes.prometheus import MILLI, Prometheus
from pipelines.release.kubernetes.scrapes import Incomplete, Proxy, Rise, check_lives, rises, scraped_at
from pipelines.release.ports import LATENCY_BOUNDS_MS, Arm, Counts, RouterUnavailable, Tally

Part = tuple[Arm, Traffic]


@dataclass(frozen=True)
class Cursor:
    """A moment on Prometheus' clock, in milliseconds."""

    at: int
    is_scrape: bool
    """Whether every proxy was read at it; else counting begins with the first scrape after it."""

    def __str__(self) -> str:
        return f"{'at' if self.is_scrape else 'after'}:{self.at}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor that was written as a text, or None when it is none of ours."""
        word, _, number = text.partition(":")
        if word not in ("at", "after") or not number.isdigit():
            return None
        return cls(int(number), is_scrape=word == "at")


@dataclass(frozen=True)
class Change:
    """When the route became what it is."""

    begun: int
    in_force: int
    """From when on every proxy has it."""


class Counting:
    """Counts one HTTPRoute's requests."""

    def __init__(self, prometheus: Prometheus, source: CountsOf) -> None:
        """Read the counters that `source` names, for one HTTPRoute."""
        self._prometheus = prometheus
        self._source = source
        self._parts = {value: _part(name) for name, value in source.parts.items()}
        self._stale = round(source.stale_seconds * MILLI)

    def count(self, since: str | None, change: Change) -> Counts:
        """Return what `pipelines.release.ports.Router.counts` promises.

        Raises:
            RouterUnavailable: when the counts are not known at present.
        """
        now = self._prometheus.now()
        fresh = Cursor(max(now, change.in_force), is_scrape=False)
        if since is None:
            return Counts(str(fresh))
        start = Cursor.parse(since)
        if start is None:
            return Counts(str(fresh), gap=f"cursor {since!r} was not made by this router")
        try:
            return self._count(start, change, now)
        except Incomplete as reason:
            return Counts(str(fresh), gap=str(reason))

    def in_flight(self, arm: Arm, since: int) -> int:
        """Return how many requests of users and replayers an arm has not finished, by scrapes after a moment.

        Raises:
            RouterUnavailable: when there is no such scrape yet.
        """
        now = self._prometheus.now()
        latest = {name: times[-1] for name, times in self._scrapes(since, now).items()}
        if not latest or min(latest.values()) <= since:
            raise RouterUnavailable("counts: the proxies were not scraped since the weight changed")
        found = 0
        for selector in self._source.in_flight:
            for series in self._prometheus.samples(selector, since, now):
                at = latest.get(series.labels.get(self._source.instance, ""), 0)
                part = self._parts.get(series.labels.get(self._source.part, ""))
                if part is not None and part[0] is arm:
                    found += round(dict(series.points).get(at, 0.0))
        return found

    def _count(self, start: Cursor, change: Change, now: int) -> Counts:
        is_changed = change.in_force > start.at
        limit = change.begun if is_changed else now
        after = Cursor(change.in_force, is_scrape=False)
        proxies = self._proxies(start, limit, now)
        if not proxies:
            return Counts(str(after if is_changed else start))
        end = next(iter(proxies.values())).end
        tallies = self._tallies(start, proxies, end)
        return Counts(str(after if is_changed else Cursor(end, is_scrape=True)), tallies)

    def _scrapes(self, start: int, now: int) -> dict[str, list[int]]:
        found = self._prometheus.samples(self._source.scrapes, start - self._stale, now)
        return scraped_at(found, self._source.instance)

    def _proxies(self, start: Cursor, limit: int, now: int) -> dict[str, Proxy]:
        """Return which scrapes of which proxies count; none when there are no new ones yet.

        Raises:
            Incomplete: when a proxy is gone.
            RouterUnavailable: when none is scraped at present.
        """
        scrapes = self._scrapes(start.at, now)
        silent = {name for name, times in scrapes.items() if times[-1] < now - self._stale}
        if silent == scrapes.keys():
            raise RouterUnavailable(
                f"counts: no proxy with this route was scraped in the last {self._source.stale_seconds:g} s "
                f"({self._source.scrapes}); does Prometheus scrape the Gateway's pods?"
            )
        if gone := sorted(name for name in silent if scrapes[name][-1] > start.at - self._stale):
            raise Incomplete(f"proxy {gone[0]} is not scraped any more; what it counted last is lost")
        heard = {name: [at for at in times if at <= limit] for name, times in scrapes.items() if name not in silent}
        if not all(heard.values()):  # one that was scraped after the limit only counted nothing before it
            heard = {name: times for name, times in heard.items() if times}
        end = min((times[-1] for times in heard.values()), default=0)
        bases = {name: _base(start, times) for name, times in heard.items()}
        if end <= start.at or (not start.is_scrape and any(base is None or base >= end for base in bases.values())):
            return {}
        return {name: Proxy(name, bases[name], end) for name, times in heard.items() if times[0] <= end}

    def _tallies(self, start: Cursor, proxies: Mapping[str, Proxy], end: int) -> dict[Part, Tally]:
        begin = min(start.at if proxy.base is None else proxy.base for proxy in proxies.values())
        read = self._prometheus.samples
        check_lives(read(self._source.uptime, begin, end), proxies, start.at, self._source.instance)

        def risen(selectors: Iterable[str]) -> Iterator[tuple[Part, Rise]]:
            for selector in selectors:
                for rise in rises(read(selector, begin, end), proxies, self._source.instance):
                    part = self._parts.get(rise.labels.get(self._source.part, ""))
                    if part is not None:
                        yield part, rise

        exposures, bad = _sums(risen(self._source.exposures)), _sums(risen(self._source.bad))
        broken = _broken(risen(self._source.broken.gone), risen(self._source.broken.before_headers))
        latencies = _histograms(risen([self._source.latency.buckets]), self._source.latency.unit_ms)
        return {
            part: Tally(
                exposures=exposures.get(part, 0),
                bad=min(exposures.get(part, 0), bad.get(part, 0) + broken.get(part, 0)),
                latency=latencies.get(part, (0,) * (len(LATENCY_BOUNDS_MS) + 1)),
            )
            for part in exposures.keys() | latencies.keys()
        }


def _part(name: str) -> Part:
    arm, _, traffic = name.partition("/")
    return Arm(arm), Traffic(traffic)


def _base(start: Cursor, times: list[int]) -> int | None:
    if start.is_scrape:
        return max((at for at in times if at <= start.at), default=None)
    return min((at for at in times if at > start.at), default=None)


def _sums(risen: Iterable[tuple[Part, Rise]]) -> dict[Part, int]:
    found: defaultdict[Part, int] = defaultdict(int)
    for part, rise in risen:
        found[part] += rise.amount
    return found


def _broken(gone: Iterable[tuple[Part, Rise]], before: Iterable[tuple[Part, Rise]]) -> dict[Part, int]:
    """Return how many streams broke at least, scrape by scrape of each proxy."""
    left: defaultdict[tuple[Part, str, int], int] = defaultdict(int)
    for sign, risen in ((1, gone), (-1, before)):
        for part, rise in risen:
            left[part, rise.proxy, rise.at] += sign * rise.amount
    found: defaultdict[Part, int] = defaultdict(int)
    for (part, _, _), amount in left.items():
        found[part] += max(0, amount)
    return found


def _histograms(risen: Iterable[tuple[Part, Rise]], unit_ms: float) -> dict[Part, tuple[int, ...]]:
    """Return latencies in our buckets, from buckets that count everything up to their bound."""
    upto: defaultdict[Part, defaultdict[float, int]] = defaultdict(lambda: defaultdict(int))
    for part, rise in risen:
        upto[part][float(rise.labels["le"])] += rise.amount
    return {part: _histogram(cumulative, unit_ms) for part, cumulative in upto.items()}


def _histogram(cumulative: Mapping[float, int], unit_ms: float) -> tuple[int, ...]:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for (_, before), (bound, total) in pairwise([(0.0, 0), *sorted(cumulative.items())]):
        counts[bisect_left(LATENCY_BOUNDS_MS, bound * unit_ms)] += max(0, total - before)
    return tuple(counts)
