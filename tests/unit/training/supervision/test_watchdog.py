"""When ranks count as hung, and which of them is to blame."""

from __future__ import annotations

import pytest

from pipelines.spec import WatchdogConfig
from pipelines.training.supervision.heartbeat import Heartbeat, Phase
from pipelines.training.supervision.watchdog import Hang, Watchdog

CONFIG = WatchdogConfig(factor=10.0, min_seconds=5.0, start_seconds=100.0)


def beat(rank: int = 0, step: int = 0, phase: Phase = Phase.TRAINING, exchanges: int = 0, pid: int = 0) -> Heartbeat:
    return Heartbeat(rank=rank, pid=pid or 100 + rank, attempt=0, step=step, phase=phase, exchanges=exchanges)


class Ranks:
    """Two ranks on a clock of their own, looked at once a second."""

    def __init__(self, config: WatchdogConfig = CONFIG) -> None:
        self.watchdog = Watchdog(config)
        self.now = 0.0

    def look(self, *beats: Heartbeat, seconds: float = 1.0) -> Hang | None:
        self.now += seconds
        return self.watchdog.look({each.rank: each for each in beats}, self.now)

    def train(self, steps: int = 10, steps_per_second: int = 2) -> int:
        """Let both ranks take steps; return the last."""
        for second in range(steps // steps_per_second + 1):
            step = second * steps_per_second
            assert self.look(beat(0, step, exchanges=step), beat(1, step, exchanges=step)) is None
        return step

    def seconds_until_hang(self, *beats: Heartbeat, limit: int = 400) -> tuple[int, Hang]:
        """Let the ranks stand still; return after how long one is blamed, and which."""
        for second in range(1, limit):
            if hang := self.look(*beats):
                return second, hang
        pytest.fail(f"nobody was blamed within {limit} s")


def test_the_rank_that_the_others_wait_for_is_blamed_after_k_times_the_median_step() -> None:
    ranks = Ranks()
    step = ranks.train()
    assert ranks.watchdog.step_seconds == pytest.approx(0.5)
    seconds, hang = ranks.seconds_until_hang(beat(0, step, exchanges=step + 1), beat(1, step, exchanges=step))
    assert seconds == 6  # it moved once more, then stood still for max(5 s, 10 x 0.5 s)
    assert hang.beat.rank == 1
    assert str(hang) == (
        "rank 1 hangs: nothing moved for 5 s while training after step 10, where a step takes 0.5 s (training.watchdog)"
    )


def test_long_steps_are_given_k_times_their_length() -> None:
    ranks = Ranks()
    for number in range(6):
        for _ in range(4):
            ranks.look(beat(0, number), beat(1, number))
    assert ranks.watchdog.step_seconds == pytest.approx(4.0)
    seconds, _ = ranks.seconds_until_hang(beat(0, 5, exchanges=1), beat(1, 5))
    assert seconds == 41


def test_one_rank_that_moves_is_enough() -> None:
    ranks = Ranks()
    step = ranks.train()
    for more in range(100):
        assert ranks.look(beat(0, step + more), beat(1, step)) is None


def test_ranks_that_are_alike_get_twice_as_long_for_the_one_that_hangs_may_be_elsewhere() -> None:
    ranks = Ranks()
    step = ranks.train()
    alike = (beat(0, step, exchanges=step), beat(1, step, exchanges=step))
    assert ranks.seconds_until_hang(*alike)[0] == 10


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.SAVING, Phase.ENDING])
def test_what_is_no_step_gets_the_time_of_a_start(phase: Phase) -> None:
    ranks = Ranks()
    step = ranks.train()
    seconds, hang = ranks.seconds_until_hang(beat(0, step, phase), beat(1, step, phase, exchanges=1))
    assert seconds == 101
    assert f"while {phase} after step" in str(hang)


def test_a_first_step_gets_the_time_of_a_start() -> None:
    seconds, hang = Ranks().seconds_until_hang(beat(0, 0, Phase.STARTING))
    assert seconds == 101
    assert "where a step takes" not in str(hang)


def test_time_in_which_nobody_looked_does_not_count() -> None:
    ranks = Ranks()
    step = ranks.train()
    behind = (beat(0, step, exchanges=step + 1), beat(1, step, exchanges=step))
    ranks.look(*behind)
    assert ranks.look(*behind, seconds=3600.0) is not None
    ranks = Ranks(CONFIG.model_copy(update={"min_seconds": 30.0}))
    ranks.train()
    ranks.look(*behind)
    assert ranks.look(*behind, seconds=3600.0) is None


def test_a_restarted_rank_begins_anew_and_a_hang_is_told_once() -> None:
    ranks = Ranks()
    step = ranks.train()
    behind = (beat(0, step, exchanges=step + 1), beat(1, step, exchanges=step))
    ranks.seconds_until_hang(*behind)
    assert ranks.look(*behind) is None
    assert ranks.look(beat(0, 0, Phase.STARTING, pid=7), beat(1, 0, Phase.STARTING, pid=8)) is None
