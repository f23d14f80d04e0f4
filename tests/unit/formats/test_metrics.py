"""The counters of a copy: what is written in Prometheus' text format is read back, and nothing else is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Written

from pipelines.formats import metrics
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import FIRST_TOKEN_SECONDS, PER_TOKEN_SECONDS, Histogram, MetricsUnreadable

LABELS = ("version", "traffic")
ANSWERS_ARE = f'# TYPE {metrics.ANSWERS}_total counter\n{metrics.ANSWERS}_total{{{{traffic="user"}}}} {{}}\n'


def told(registry: CollectorRegistry) -> str:
    """Return what a copy with these metrics tells."""
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("bounds", "lowest", "highest"),
    [
        pytest.param(FIRST_TOKEN_SECONDS, 0.001, 60.0, id="first"),
        pytest.param(PER_TOKEN_SECONDS, 0.0001, 10.0, id="gap"),
    ],
)
def test_buckets_are_fine_and_cover_their_range(bounds: tuple[float, ...], lowest: float, highest: float) -> None:
    assert bounds[0] == lowest
    assert bounds[-2] < highest <= bounds[-1]
    assert all(1.1 < high / low <= 1.15 for low, high in pairwise(bounds))


def test_counters_are_read_by_traffic() -> None:
    registry = CollectorRegistry()
    requests = Counter(metrics.REQUESTS, "r", (*LABELS, "endpoint", "code"), registry=registry)
    for traffic, code, number in (("user", "200", 7), ("user", "503", 2), ("user", "500", 1), ("shadow", "504", 4)):
        requests.labels("v", traffic, "/v1/completions", code).inc(number)
    Counter(metrics.ANSWERS, "a", LABELS, registry=registry).labels("v", "user").inc(6)
    Counter(metrics.INVALID_ANSWERS, "i", LABELS, registry=registry).labels("v", "user").inc(5)
    found = metrics.parse(told(registry))
    user, shadow, pinned = found[Traffic.USER], found[Traffic.SHADOW], found[Traffic.PINNED]
    assert (user.requests, user.failed, user.answered, user.invalid) == (10, 3, 6, 5)
    assert (shadow.requests, shadow.failed, shadow.answered) == (4, 4, 0)
    assert (pinned.requests, pinned.failed) == (0, 0)


def test_a_histogram_has_one_count_per_bucket_and_one_above() -> None:
    registry = CollectorRegistry()
    first = Written(metrics.TTFT, "t", LABELS, buckets=FIRST_TOKEN_SECONDS, registry=registry)
    for seconds in (0.0, FIRST_TOKEN_SECONDS[3], FIRST_TOKEN_SECONDS[3], 1e6):
        first.labels("v", "pinned").observe(seconds)
    found = metrics.parse(told(registry))
    read = found[Traffic.PINNED].time_to_first_token
    assert read.bounds == FIRST_TOKEN_SECONDS
    assert {index: count for index, count in enumerate(read.counts) if count} == {0: 1, 3: 2, len(read.bounds): 1}
    nothing = found[Traffic.USER].time_per_output_token
    assert nothing.counts == (0,) * (len(PER_TOKEN_SECONDS) + 1)


def test_nothing_told_is_nothing_counted() -> None:
    assert {counters.requests for counters in metrics.parse("").values()} == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("<html>", "metrics: ", id="not-the-format"),
        pytest.param(ANSWERS_ARE.format("NaN"), "NaN", id="no-number"),
        pytest.param(ANSWERS_ARE.format("+Inf"), "infinity", id="no-count"),
    ],
)
def test_what_cannot_be_trusted_is_an_error_that_may_pass(text: str, message: str) -> None:
    with pytest.raises(MetricsUnreadable, match=message) as refused:
        metrics.parse(text)
    assert refused.value.retryable


def test_a_copy_with_other_buckets_has_nothing_to_compare() -> None:
    text = f'# TYPE {metrics.TTFT} histogram\n{metrics.TTFT}_bucket{{traffic="user",le="0.5"}} 1\n'
    assert metrics.parse(text)[Traffic.USER].time_to_first_token == Histogram((), ())
