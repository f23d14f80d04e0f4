"""Intervals: right on average, seeded, and refused when no interval follows from the data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.errors import BadInput
from pipelines.evaluation import bootstrap
from pipelines.evaluation.bootstrap import exponential, ratio_of_sums
from pipelines.formats.records import Estimate


def estimate(numerator: np.ndarray, denominator: np.ndarray, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Return the ratio with 400 resamples."""
    return ratio_of_sums(numerator, denominator, num_resamples=400, confidence=confidence, seed=seed)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        lengths = rng.integers(5, 200, 60).astype(float)
        found = estimate(lengths * rng.normal(4.0, 0.6, 60), lengths, confidence=0.9)
        covered += found.low <= 4.0 <= found.high
    assert 0.83 <= covered / 200 <= 0.96


def test_long_documents_count_by_their_length() -> None:
    found = estimate(np.array([10.0, 900.0]), np.array([10.0, 300.0]))
    assert found.value == pytest.approx(910 / 310)
    assert (found.low, found.high) == (1.0, 3.0)


def test_equal_seeds_give_equal_intervals_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(4, 1, 50)
    whole = estimate(values, np.ones(50))
    monkeypatch.setattr(bootstrap, "BLOCK_CELLS", 1000)
    assert estimate(values, np.ones(50)) == whole
    assert estimate(values, np.ones(50), seed=1) != whole


def test_a_paired_difference_is_far_narrower_than_its_parts() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(4.0, 1.0, 200)
    other = hard + rng.normal(0.05, 0.02, 200)
    alone, paired = estimate(hard, np.ones(200)), estimate(hard - other, np.ones(200))
    assert paired.high < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 20


@pytest.mark.parametrize("count", [0, 1])
def test_no_interval_follows_from_fewer_than_two_documents(count: int) -> None:
    with pytest.raises(BadInput, match=f"validation split: {count} documents; an interval needs at least 2"):
        estimate(np.ones(count), np.ones(count))


def test_exponentials_keep_value_and_ends_in_order() -> None:
    found = exponential(Estimate(value=1.0, low=0.5, high=2.0, confidence=0.9))
    assert (found.value, found.low, found.high, found.confidence) == (math.e, math.exp(0.5), math.exp(2.0), 0.9)
