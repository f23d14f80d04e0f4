"""Rounds of averages among workers of which some are slow or lost; each worker is a thread."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
import torch
import torch.distributed as dist

from pipelines.training.strategies import rounds
from pipelines.training.strategies.rounds import Rounds

SOON = 2.0
LONG = 120.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(rounds, "_POLL_SECONDS", 0.02)


class Workers:
    """Workers that meet at one store."""

    def __init__(self, count: int, timeout_seconds: float, stores: Sequence[dist.Store] = ()) -> None:
        kept = stores or [dist.HashStore()] * count
        self.rounds = [Rounds(kept[rank], rank, count, timeout_seconds) for rank in range(count)]
        self.memories = [torch.zeros(1) for _ in range(count)]
        self.threads = ThreadPoolExecutor(max_workers=count)

    def begin(self, rank: int, value: float) -> Future[torch.Tensor]:
        """Let a worker average a value."""
        return self.threads.submit(self.rounds[rank].average, torch.tensor([value]), [self.memories[rank]])

    def average(self, values: dict[int, float]) -> dict[int, float]:
        """Let some workers average their values; the others are silent."""
        begun = {rank: self.begin(rank, value) for rank, value in values.items()}
        return {rank: future.result(LONG).item() for rank, future in begun.items()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_workers_get_the_mean(count: int) -> None:
    workers = Workers(count, LONG)
    for number in (0.0, 10.0):
        values = {rank: number + 2 * rank for rank in range(count)}
        assert workers.average(values) == dict.fromkeys(range(count), number + count - 1)


def test_a_round_goes_on_without_a_worker_that_never_comes() -> None:
    workers = Workers(3, SOON)
    assert workers.average({0: 1.0, 2: 3.0}) == {0: 2.0, 2: 2.0}
    assert workers.rounds[0].members == workers.rounds[2].members == [0, 2]
    assert workers.rounds[0].has_left_out


def test_once_left_out_a_lost_worker_is_not_waited_for() -> None:
    workers = Workers(2, SOON)
    workers.average({0: 1.0})
    workers.rounds[0]._timeout_seconds = LONG
    assert workers.begin(0, 5.0).result(LONG / 2).item() == 5.0


def test_a_slow_worker_comes_back_with_what_it_has_and_learns_what_the_others_remember() -> None:
    workers = Workers(3, SOON)
    workers.average({0: 1.0, 1: 3.0})
    for memory in workers.memories[:2]:
        memory.fill_(7.0)
    late = workers.begin(2, 10.0)
    wait_until(lambda: workers.rounds[2]._store.check(["2/knock"]))
    assert workers.average({0: 1.0, 1: 4.0}) == {0: 2.5, 1: 2.5}  # the first of them hears the knock
    assert workers.average({0: 1.0, 1: 4.0}) == {0: 5.0, 1: 5.0}
    assert late.result(LONG).item() == 5.0
    assert workers.memories[2].item() == 7.0
    assert workers.average({0: 0.0, 1: 0.0, 2: 3.0}) == dict.fromkeys(range(3), 1.0)


def test_the_others_try_again_when_a_worker_dies_within_a_round() -> None:
    workers = Workers(3, SOON)
    workers.average({0: 0.0, 1: 0.0, 2: 0.0})
    begun = [workers.begin(rank, value) for rank, value in ((0, 1.0), (2, 3.0))]
    workers.rounds[1]._groups.clear()  # its connections end, as when its process dies
    assert [future.result(LONG).item() for future in begun] == [2.0, 2.0]


def test_one_of_two_goes_on_alone_when_the_other_dies_within_a_round() -> None:
    workers = Workers(2, SOON)
    workers.average({0: 0.0, 1: 0.0})
    begun = workers.begin(0, 1.0)
    workers.rounds[1]._groups.clear()
    assert begun.result(LONG).item() == 1.0
    assert workers.rounds[0].members == [0]


def test_a_worker_that_left_is_not_waited_for() -> None:
    workers = Workers(2, LONG)
    workers.average({0: 1.0, 1: 1.0})
    workers.rounds[1].leave([])
    assert workers.begin(0, 5.0).result(LONG / 2).item() == 5.0


@pytest.mark.parametrize("count", [2, 3])
def test_a_worker_whose_round_failed_is_given_the_result_that_others_have(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(count, LONG)
    workers.average(dict.fromkeys(range(count), 0.0))
    with monkeypatch.context() as patch:
        fail_once_after_the_sum(patch, workers.rounds[1])
        begun = {rank: workers.begin(rank, 2.0 * rank) for rank in range(count)}
        others = [rank for rank in range(count) if rank != 1]
        assert [begun[rank].result(LONG).item() for rank in others] == [count - 1] * len(others)
        for rank in others:
            workers.memories[rank].fill_(7.0)
        again = [workers.begin(rank, 10.0) for rank in others]  # they do not know that one failed: a round ahead
        assert begun[1].result(LONG).item() == count - 1
        assert workers.memories[1].item() == 0.0  # it has the result still to use
    assert [future.result(LONG).item() for future in (*again, workers.begin(1, 10.0))] == [10.0] * count


def test_nobody_leaves_before_all_have_the_last_result(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2, LONG)
    workers.average({0: 0.0, 1: 0.0})
    fail_once_after_the_sum(monkeypatch, workers.rounds[1])
    begun = [workers.begin(0, 1.0), workers.begin(1, 3.0)]
    assert begun[0].result(LONG).item() == 2.0
    leaving = workers.threads.submit(workers.rounds[0].leave, [workers.memories[0]])
    assert begun[1].result(LONG).item() == 2.0  # alone it would be 3
    workers.rounds[1].leave([workers.memories[1]])
    leaving.result(LONG)


def test_the_store_may_leave_with_the_worker_that_kept_it() -> None:
    stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)]
    stores.append(dist.TCPStore("127.0.0.1", stores[0].port, is_master=False))
    workers = Workers(2, LONG, stores)
    workers.average({0: 1.0, 1: 3.0})
    workers.rounds[0].leave([])
    del workers.rounds[0], stores[0]
    gc.collect()
    workers.rounds[0].leave([])


def test_who_leaves_does_not_wait_for_ever_for_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2, SOON)
    workers.average({0: 0.0, 1: 0.0})
    monkeypatch.setattr(workers.rounds[1], "_remember", lambda _version: None)
    workers.average({0: 0.0, 1: 0.0})
    workers.rounds[0].leave([workers.memories[0]])
    assert workers.rounds[0]._store.check(["left/0"])


def fail_once_after_the_sum(monkeypatch: pytest.MonkeyPatch, worker: Rounds) -> None:
    """Let one collective end well for all but one member."""
    add, failures = rounds._sum, [RuntimeError("Connection closed by peer")]

    def sum_and_fail(group: dist.ProcessGroupGloo, values: torch.Tensor) -> torch.Tensor:
        total = add(group, values)
        if group in worker._groups and failures:
            raise failures.pop()
        return total

    monkeypatch.setattr(rounds, "_sum", sum_and_fail)


def wait_until(condition: Callable[[], bool]) -> None:
    with ThreadPoolExecutor(max_workers=1) as thread:
        wait([thread.submit(_spin, condition)], timeout=LONG)


def _spin(condition: Callable[[], bool]) -> None:
    while not condition():
        pass
