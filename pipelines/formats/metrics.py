"""Metrics of a service that a release decides by: their names, their buckets, and how they are read again."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from prometheus_client.parser import text_string_to_metric_families

from pipelines.errors import SlipwayError
from pipelines.formats.headers import Traffic

REQUESTS = "slipway_requests"
"""Counter of requests that are over, by endpoint and code."""

ANSWERS = "slipway_answers"
"""Counter of requests that were answered with generated text; one of several prompts counts once."""

INVALID_ANSWERS = "slipway_invalid_answers"
"""Counter of those without a token, with a log-probability that is no number, or whose bytes are no text."""

TTFT = "slipway_time_to_first_token_seconds"
"""Histogram, bounds `FIRST_TOKEN_SECONDS`."""

TPOT = "slipway_time_per_output_token_seconds"
"""Histogram, bounds `PER_TOKEN_SECONDS`."""

_STEP = 1.14


def _geometric(low: float, high: float) -> tuple[float, ...]:
    """Return bounds from `low` to at least `high`; each is at most 15 % above the one before, rounding included."""
    bounds = [low]
    while bounds[-1] < high:
        bounds.append(float(f"{bounds[-1] * _STEP:.4g}"))
    return tuple(bounds)


FIRST_TOKEN_SECONDS = _geometric(0.001, 60.0)
PER_TOKEN_SECONDS = _geometric(0.0001, 10.0)


class MetricsUnreadable(SlipwayError):
    """What a copy told about itself is not what a copy of ours tells; the next reading may be whole again."""

    retryable: ClassVar[bool] = True


@dataclass(frozen=True)
class Histogram:
    """Counts per bucket: one for each bound, and one above the last; empty when the bounds are not ours."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ServiceCounters:
    """What a copy has counted in one kind of traffic since it began."""

    requests: int
    """Requests that are over."""

    failed: int
    """Those of them that were answered with a 5xx."""

    answered: int
    """Generated answers."""

    invalid: int
    """Those of them that are invalid."""

    time_to_first_token: Histogram
    time_per_output_token: Histogram


def parse(text: str) -> dict[Traffic, ServiceCounters]:
    """Return the counters of every kind of traffic from Prometheus' text format, all processes added up.

    What was never counted is 0.

    Raises:
        MetricsUnreadable: when the text is not in that format, or a value is no count.
    """
    try:
        return _parse(text)
    except (ValueError, OverflowError) as error:
        raise MetricsUnreadable(f"metrics: {error}") from error


def _parse(text: str) -> dict[Traffic, ServiceCounters]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    buckets: dict[tuple[str, str], dict[float, int]] = defaultdict(lambda: defaultdict(int))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            traffic = sample.labels.get("traffic", "")
            if sample.name == f"{family.name}_bucket" and family.name in (TTFT, TPOT):
                buckets[family.name, traffic][float(sample.labels["le"])] += int(sample.value)
            elif sample.name == f"{family.name}_total":
                sums[family.name, traffic] += int(sample.value)
                if family.name == REQUESTS and sample.labels.get("code", "").startswith("5"):
                    sums["failed", traffic] += int(sample.value)
    return {
        traffic: ServiceCounters(
            requests=sums[REQUESTS, traffic],
            failed=sums["failed", traffic],
            answered=sums[ANSWERS, traffic],
            invalid=sums[INVALID_ANSWERS, traffic],
            time_to_first_token=_histogram(buckets[TTFT, traffic], FIRST_TOKEN_SECONDS),
            time_per_output_token=_histogram(buckets[TPOT, traffic], PER_TOKEN_SECONDS),
        )
        for traffic in Traffic
    }


def _histogram(cumulative: dict[float, int], bounds: tuple[float, ...]) -> Histogram:
    """Return counts per bucket from Prometheus' counts of everything up to a bound.

    A copy that was packaged by another version of Slipway may have other bounds: then there is nothing to compare.
    """
    if not cumulative:
        return Histogram(bounds, (0,) * (len(bounds) + 1))
    if cumulative.keys() != {*bounds, math.inf}:
        return Histogram((), ())
    upto = [cumulative[bound] for bound in (*bounds, math.inf)]
    return Histogram(bounds, tuple(after - before for before, after in pairwise([0, *upto])))
