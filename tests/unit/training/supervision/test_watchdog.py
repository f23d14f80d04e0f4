"""When ranks count as hung, and which of them is to blame; together, or each by itself."""

from __future__ import annotations

import pytest

from pipelines.spec import DilocoConfig, TrainingConfig, WatchdogConfig
from pipelines.training.supervision.heartbeat import Heartbeat, Phase
from pipelines.training.supervision.watchdog import Hang, Watchdog, Watchdogs

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


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    ranks = Ranks()
    step = ranks.train()
    alone = beat(0, step, Phase.ENDING, exchanges=step + 1)
    ranks.look(alone, beat(1, step, Phase.ENDING, exchanges=step))
    for _ in range(99):
        assert ranks.look(alone) is None
    _, hang = ranks.seconds_until_hang(alone, limit=3)
    assert hang.beat.rank == 0


class Workers:
    """Ranks that do not wait for each other, on a clock of their own, looked at once a second."""

    def __init__(self, config: WatchdogConfig = CONFIG) -> None:
        self.watchdogs = Watchdogs(config, wait_for_each_other=False)
        self.now = 0.0
        self.steps = {0: 0, 1: 0, 2: 0}

    def train(self, seconds: int, *idle: Heartbeat, seconds_per_step: int = 1) -> dict[int, tuple[int, Hang]]:
        """Let all but the idle take steps, rank 2 slowly; return after how long which of them are blamed."""
        blamed = {}
        for second in range(1, seconds + 1):
            self.now += 1.0
            for rank in self.steps:
                self.steps[rank] += int(self.now) % seconds_per_step == 0 if rank == 2 else 2
            beats = {rank: beat(rank, step) for rank, step in self.steps.items()} | {each.rank: each for each in idle}
            for hang in self.watchdogs.look(beats, self.now):
                blamed.setdefault(hang.beat.rank, (second, hang))
        return blamed


def test_a_rank_that_the_others_do_not_wait_for_is_judged_by_itself() -> None:
    workers = Workers()
    assert workers.train(10) == {}
    blamed = workers.train(30, beat(0, workers.steps[0]))
    assert set(blamed) == {0}
    seconds, hang = blamed[0]
    assert seconds == 5  # 10 x its 0.5 s a step
    assert "rank 0 hangs: nothing moved for 5 s while training after step 20, where a step takes 0.5 s" in str(hang)


def test_several_that_hang_are_all_found() -> None:
    workers = Workers()
    workers.train(10)
    assert set(workers.train(6, beat(0, workers.steps[0]), beat(1, workers.steps[1]))) == {0, 1}


def test_a_rank_is_given_k_times_its_own_step_not_that_of_quicker_ones() -> None:
    workers = Workers()
    assert workers.train(100, seconds_per_step=20) == {}
    assert set(workers.train(220, beat(2, workers.steps[2]))) == {2}
    workers = Workers()
    workers.train(100, seconds_per_step=20)
    assert workers.train(199, beat(2, workers.steps[2])) == {}


def test_a_rank_that_waits_for_an_exchange_is_not_blamed() -> None:
    training = TrainingConfig.model_validate({"strategy": "diloco"})
    assert isinstance(training.strategy, DilocoConfig)
    workers = Workers(training.watchdog)
    workers.train(10)
    longest = int(2 * training.strategy.worker_timeout_seconds)
    assert workers.train(longest, beat(0, workers.steps[0]), beat(1, workers.steps[1])) == {}


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.SAVING, Phase.ENDING])
def test_of_ranks_by_themselves_too_what_is_no_step_gets_the_time_of_a_start(phase: Phase) -> None:
    workers = Workers()
    workers.train(10)
    (seconds, hang), *others = workers.train(150, beat(0, workers.steps[0], phase)).values()
    assert (seconds, hang.beat.rank, others) == (101, 0, [])


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("steps", [0, 10])
def test_once_the_model_is_published_a_rank_that_stands_still_gets_no_longer_than_in_a_step(
    phase: Phase, steps: int
) -> None:
    watchdogs = Watchdogs(CONFIG, wait_for_each_other=False)
    for now in range(steps):
        watchdogs.look({1: beat(1, now)}, float(now))
    idle = {1: beat(1, steps, phase)}
    looks = (watchdogs.look(idle, float(now), is_over=True) for now in range(steps, steps + 100))
    seconds = next(second for second, hangs in enumerate(looks) if hangs)
    assert seconds == (CONFIG.factor * 1.0 if steps else CONFIG.min_seconds)
