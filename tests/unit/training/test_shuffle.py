"""An order that is computed place by place is one that shuffling might have given."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training import shuffle
from pipelines.training.shuffle import shuffled

NUM_SEEDS = 2000
LIMIT = 5.0
"""Standard deviations: of a good order, one test in millions says more."""


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**70), epoch=st.integers(0, 2**40))
def test_every_number_stands_at_one_place(size: int, seed: int, epoch: int) -> None:
    assert sorted(shuffled(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


@settings(deadline=None)
@given(
    size=st.integers(10, 2**63 - 1),
    seed=st.integers(0, 9),
    shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=2),
)
def test_places_of_an_order_that_no_memory_holds_have_different_numbers(
    size: int, seed: int, shares: list[float]
) -> None:
    places = np.unique(np.array([min(size - 1, int(share * size)) for share in shares]))
    numbers = shuffled(places, size, seed, epoch=0)
    assert len(set(numbers.tolist())) == len(places)
    assert ((numbers >= 0) & (numbers < size)).all()
    one_by_one = [shuffled(places[[index]], size, seed, epoch=0).item() for index in range(len(places))]
    assert numbers.tolist() == one_by_one


def deviations(counts: npt.NDArray[np.int64]) -> float:
    """Return by how many standard deviations Pearson's statistic is above that of equally likely outcomes."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((np.square(counts - expected) / expected).sum() - freedom) / math.sqrt(2 * freedom)


def oddities(size: int) -> dict[str, float]:
    """Return how odd the orders of many seeds are: in what stands at some places, and in the step to the next."""
    orders = np.stack([shuffled(np.arange(size), size, seed, epoch=3) for seed in range(NUM_SEEDS)])
    steps = (np.diff(orders, axis=1) % size).ravel()
    found = {
        f"place {place}": deviations(np.bincount(orders[:, place], minlength=size)) for place in (0, size // 2, -1)
    }
    return {**found, "neighbours": deviations(np.bincount(steps, minlength=size)[1:])}


@pytest.mark.parametrize("size", [7, 13, 30])
def test_every_number_is_equally_likely_at_a_place_and_after_another(size: int) -> None:
    assert {name: value for name, value in oddities(size).items() if value > LIMIT} == {}


def test_with_half_the_rounds_neighbours_would_be_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = shuffle._keys
    monkeypatch.setattr(shuffle, "_keys", lambda seed, epoch: keys(seed, epoch)[: shuffle.ROUNDS // 2])
    assert oddities(13)["neighbours"] > LIMIT
