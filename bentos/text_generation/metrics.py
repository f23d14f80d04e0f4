"""Prometheus metrics of the service, each labelled by version and kind of traffic.

They lie in files of the process's own (`prometheus_client`'s multi-process mode, set up by BentoML), so they must be
made in the process that serves, and a respawned process goes on counting where its predecessor stopped. Those that a
release decides by have their names and buckets in `pipelines.formats.metrics`.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from pipelines.formats import metrics as names
from pipelines.formats.headers import Traffic

if TYPE_CHECKING:
    from pipelines.inference.request import Completion

SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Bounds of whole requests: steps of a factor of 1.3 to 2; no decision depends on them."""


class Metrics:
    """All metrics of one version. Looking a labelled child up by its labels is cached: it is most of a count's cost."""

    def __init__(self, version: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._version = version
        self._waiting: Tally[Traffic] = Tally()
        labels = ("version", "traffic")

        def counter(name: str, what: str, *more: str) -> Callable[..., Counter]:
            return cache(Counter(name, what, (*labels, *more), registry=registry).labels)

        def histogram(name: str, what: str, bounds: Sequence[float], *more: str) -> Callable[..., Histogram]:
            return cache(Histogram(name, what, (*labels, *more), buckets=bounds, registry=registry).labels)

        self._requests = counter(names.REQUESTS, "Requests that are over.", "endpoint", "code")
        self._errors = counter("slipway_errors", "Requests refused or failed.", "kind")
        self._tokens = counter("slipway_tokens", "Tokens read and written.", "kind")
        self._answers = counter(names.ANSWERS, "Requests that were answered with generated text.")
        self._invalid = counter(names.INVALID_ANSWERS, "Those whose text nobody can use.")
        self._latency = histogram(
            "slipway_request_seconds", "From a request's headers to its answer's end.", SECONDS, "endpoint"
        )
        self._first_token = histogram(names.TTFT, "From submission, waiting included.", names.FIRST_TOKEN_SECONDS)
        self._per_token = histogram(names.TPOT, "Mean gap in one answer.", names.PER_TOKEN_SECONDS)
        self._queue = Gauge(
            "slipway_queue_length", "Prompts that wait.", labels, registry=registry, multiprocess_mode="livesum"
        )
        for traffic in Traffic:  # a series that is there from the start shows its first event as a rise
            self._queue.labels(version, traffic).set(0)
            self._answers(version, traffic)
            self._invalid(version, traffic)

    def answered(self, endpoint: str, traffic: Traffic, code: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests(self._version, traffic, endpoint, code).inc()
        self._latency(self._version, traffic, endpoint).observe(seconds)

    def failed(self, traffic: Traffic, kind: str) -> None:
        """Count a request that ended with an error."""
        self._errors(self._version, traffic, kind).inc()

    def generated(self, traffic: Traffic, completions: Sequence[Completion]) -> None:
        """Count a request's answer, its tokens and how fast they came.

        However many prompts a request has, it is one answer: a release counts events that do not depend on each other.
        """
        labels = (self._version, traffic)
        self._answers(*labels).inc()
        if not all(completion.is_valid for completion in completions):
            self._invalid(*labels).inc()
        self._tokens(*labels, "prompt").inc(sum(completion.num_prompt_tokens for completion in completions))
        self._tokens(*labels, "completion").inc(sum(len(completion.tokens) for completion in completions))
        timings = [completion.timings for completion in completions]
        if first := [timing.first_token_seconds for timing in timings if timing.first_token_seconds is not None]:
            self._first_token(*labels).observe(min(first))
        if gaps := [timing.per_token_seconds for timing in timings if timing.per_token_seconds is not None]:
            self._per_token(*labels).observe(fmean(gaps))

    def waiting(self, prompts: Collection[Traffic]) -> None:
        """Say which prompts wait now."""
        if not prompts and not self._waiting:
            return
        tally = Tally(prompts)
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
