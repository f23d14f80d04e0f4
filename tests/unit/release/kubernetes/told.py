"""A Prometheus that was told every scrape by a test."""

from __future__ import annotations

import re
from collections import defaultdict

from pipelines.release.kubernetes.gateway import CountsOf, implementations
from pipelines.release.kubernetes.prometheus import Series

START = 1_000_000
"""Milliseconds of Prometheus' clock at which proxies begin."""

STEP = 15_000
"""Between two scrapes."""

PART = "httproute/slipway/docs/rule/3/backend/{}"
STABLE, CANARY = PART.format(0), PART.format(1)


def source() -> CountsOf:
    """Return where Envoy Gateway's counts are."""
    found = implementations()["gateway.envoyproxy.io/gatewayclass-controller"].counts
    assert found is not None
    return found.of("slipway", "docs")


class ToldPrometheus:
    """Holds samples; a selector finds those whose name and labels it matches."""

    def __init__(self) -> None:
        self.time = START
        self._points: defaultdict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = defaultdict(list)

    def now(self) -> int:
        """Return the time of the last scrape."""
        return self.time

    def samples(self, selector: str, start: int, end: int) -> list[Series]:
        """Return samples as the real one does."""
        name, _, rest = selector.partition("{")
        wanted = re.findall(r'(\w+)(=~|=)"([^"]*)"', rest)
        found = []
        for key, points in self._points.items():
            labels = dict(key)
            if labels["__name__"] == name and all(_matches(labels, *match) for match in wanted):
                found.append(Series(labels, tuple(point for point in points if start <= point[0] <= end)))
        return [series for series in found if series.points]

    def scrape(self, *proxies: Proxy, seconds: float = STEP / 1000) -> int:
        """Let time pass, then scrape each proxy; return when that was."""
        self.time += round(seconds * 1000)
        for proxy in proxies:
            for labels, value in proxy.metrics(self.time):
                key = {"instance": proxy.name, **labels}
                self._points[tuple(sorted(key.items()))].append((self.time, value))
        return self.time


class Proxy:
    """What one Envoy tells."""

    def __init__(self, name: str = "proxy-1", begun: int = START) -> None:
        self.name = name
        self.begun = begun
        self._counters: dict[tuple[tuple[str, str], ...], float] = {}

    def answer(self, cluster: str, count: int = 1, code: int = 200) -> None:
        """Answer requests."""
        self.count("envoy_cluster_upstream_rq", count, envoy_cluster_name=cluster, envoy_response_code=str(code))

    def close(self, cluster: str, count: int = 1) -> None:
        """See connections closed by the copy under a request."""
        self.count("envoy_cluster_upstream_cx_destroy_remote_with_active_rq", count, envoy_cluster_name=cluster)

    def take(self, cluster: str, upto: str, count: int = 1) -> None:
        """See answers that took at most so many milliseconds; Envoy's buckets count everything below them too."""
        for bound in ("100", "250", "+Inf"):
            if float(bound) >= float(upto):
                self.count("envoy_cluster_upstream_rq_time_bucket", count, envoy_cluster_name=cluster, le=bound)

    def count(self, name: str, amount: float, **labels: str) -> None:
        """Let a counter rise, or fall."""
        key = tuple(sorted({"__name__": name, **labels}.items()))
        self._counters[key] = self._counters.get(key, 0.0) + amount

    def begin_anew(self, at: int) -> None:
        """Lose all counters."""
        self.begun = at
        self._counters.clear()

    def metrics(self, now: int) -> list[tuple[dict[str, str], float]]:
        """Return what it tells in a scrape."""
        there = [{"__name__": "envoy_cluster_membership_total", "envoy_cluster_name": PART.format(0)}]
        alive = ({"__name__": "envoy_server_uptime"}, float((now - self.begun) // 1000))
        return [*((labels, 1.0) for labels in there), alive, *((dict(key), v) for key, v in self._counters.items())]


def _matches(labels: dict[str, str], name: str, operator: str, value: str) -> bool:
    found = labels.get(name, "")
    return found == value if operator == "=" else re.fullmatch(value, found) is not None
