"""How often the ranks look up from their work."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from pipelines.training.pace import INDEPENDENT_STEPS, LATEST_SECONDS, SOONEST_SECONDS, Pace


class FakeRank:
    """A rank, as far as a pace knows it: hears what another one claims, and counts how often it is asked."""

    def __init__(self, other: Callable[[], bool] = lambda: False, replica: str = "") -> None:
        self._other = other
        self.replica = replica
        self.num_asked = 0

    def any_rank(self, claim: bool) -> bool:
        """Return whether this rank or the other one claims."""
        self.num_asked += 1
        return claim or self._other()


def looks(rank: FakeRank, num_steps: int, *, step_seconds: float, every_steps: int | None = None) -> list[int]:
    """Return after which steps a rank looks up when each step takes it some time."""
    now = 0.0
    pace = Pace(rank, done=0, every_steps=every_steps, clock=lambda: now)
    found = []
    for done in range(1, num_steps + 1):
        now += step_seconds
        assert pace.is_due(done) == (done == pace.next_look)
        if pace.is_due(done):
            found.append(done)
            pace.go_on(done)
    return found


def test_quick_steps_are_looked_at_seldom() -> None:
    found = looks(FakeRank(), 20_000, step_seconds=0.001)
    seconds = [0.001 * (after - before) for before, after in itertools.pairwise(found[20:])]
    assert min(seconds) >= SOONEST_SECONDS / 2
    assert max(seconds) <= 4 * SOONEST_SECONDS
    assert len(found) < 20_000 / 50


def test_slow_steps_are_looked_at_each_time() -> None:
    assert looks(FakeRank(), 5, step_seconds=60.0) == [1, 2, 3, 4, 5]


def test_a_long_training_leaves_few_looks_and_is_still_told_to_stop_in_time() -> None:
    found = looks(FakeRank(), 200_000, step_seconds=0.1)
    assert len(found) < 8000
    assert 0.1 * max(after - before for before, after in itertools.pairwise(found)) <= 2 * LATEST_SECONDS


def test_ranks_with_different_clocks_look_at_the_same_steps() -> None:
    """The quick rank hears from the slow one; what it decides alone would differ."""
    slow = looks(FakeRank(), 100, step_seconds=0.9 * SOONEST_SECONDS)
    claims = iter(after - before > 1 for before, after in itertools.pairwise([0, *slow]))
    assert looks(FakeRank(other=lambda: next(claims)), 100, step_seconds=0.0001) == slow
    assert looks(FakeRank(), 100, step_seconds=0.0001) != slow


@pytest.mark.parametrize(
    ("rank", "every_steps", "expected"),
    [
        pytest.param(FakeRank(), 4, [4, 8, 12], id="the-caller-says-when"),
        pytest.param(FakeRank(replica="1"), None, [INDEPENDENT_STEPS], id="ranks-that-do-not-wait-cannot-agree"),
    ],
)
def test_a_fixed_pace_asks_nobody(rank: FakeRank, every_steps: int | None, expected: list[int]) -> None:
    assert looks(rank, 14, step_seconds=60.0, every_steps=every_steps) == expected
    assert rank.num_asked == 0
