"""Prometheus metrics of the service, each labelled by version and kind of traffic.

They lie in files of the process's own (`prometheus_client`'s multi-process mode, set up by BentoML), so they must be
made in the process that serves, and a respawned process goes on counting where its predecessor stopped.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from pipelines.formats.headers import Traffic

if TYPE_CHECKING:
    from pipelines.inference.request import Completion

SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Bounds of latencies: steps of a factor of 1.3 to 2, fine enough for comparisons of quantiles."""

TOKEN_SECONDS = (0.0001, 0.0002, 0.0003, 0.0005, 0.00075, *SECONDS[:18])
"""Bounds of the time per output token."""


class Metrics:
    """All metrics of one version. Looking a labelled child up by its labels is cached: it is most of a count's cost."""

    def __init__(self, version: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._version = version
        self._waiting: Tally[Traffic] = Tally()
        labels = ("version", "traffic")

        def counter(name: str, what: str, *more: str) -> Callable[..., Counter]:
            return cache(Counter(f"slipway_{name}", what, (*labels, *more), registry=registry).labels)

        def histogram(name: str, what: str, bounds: Sequence[float], *more: str) -> Callable[..., Histogram]:
            made = Histogram(f"slipway_{name}_seconds", what, (*labels, *more), buckets=bounds, registry=registry)
            return cache(made.labels)

        self._requests = counter("requests", "Requests that are over.", "endpoint", "code")
        self._errors = counter("errors", "Requests refused or failed.", "kind")
        self._tokens = counter("tokens", "Tokens read and written.", "kind")
        self._latency = histogram("request", "From a request's headers to its answer's end.", SECONDS, "endpoint")
        self._first_token = histogram("time_to_first_token", "From submission, waiting included.", SECONDS)
        self._per_token = histogram("time_per_output_token", "Mean gap in one answer.", TOKEN_SECONDS)
        self._queue = Gauge(
            "slipway_queue_length", "Requests that wait.", labels, registry=registry, multiprocess_mode="livesum"
        )
        for traffic in Traffic:
            self._queue.labels(version, traffic).set(0)

    def answered(self, endpoint: str, traffic: Traffic, code: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests(self._version, traffic, endpoint, code).inc()
        self._latency(self._version, traffic, endpoint).observe(seconds)

    def failed(self, traffic: Traffic, kind: str) -> None:
        """Count a request that ended with an error."""
        self._errors(self._version, traffic, kind).inc()

    def generated(self, traffic: Traffic, completion: Completion) -> None:
        """Count the tokens of an answer and how fast they came."""
        self._tokens(self._version, traffic, "prompt").inc(completion.num_prompt_tokens)
        self._tokens(self._version, traffic, "completion").inc(len(completion.tokens))
        timings = completion.timings
        if timings.first_token_seconds is not None:
            self._first_token(self._version, traffic).observe(timings.first_token_seconds)
        if timings.per_token_seconds is not None:
            self._per_token(self._version, traffic).observe(timings.per_token_seconds)

    def waiting(self, requests: Iterable[Traffic]) -> None:
        """Say which requests wait now."""
        tally = Tally(requests)
        for traffic in Traffic:
            if tally[traffic] != self._waiting[traffic]:
                self._queue.labels(self._version, traffic).set(tally[traffic])
        self._waiting = tally


def exposition() -> bytes:
    """Return the metrics of all worker processes in Prometheus' text format."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client is half typed
    return generate_latest(registry)


def forget_dead_processes() -> None:
    """Drop the gauges of processes that are gone: their requests wait no more."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return
    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # prometheus_client is half typed
