"""A step on a cluster where calls fail, answers get lost and pods die, by schedules of many seeds.

However a schedule ends the task, it ends well or with a plain error, its step never runs twice at once, and the reaper
finds all that is left. Every other schedule is of a training on two nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cluster import Fault, Faults
from tests.cluster.faults import NO_FAULTS
from tests.dags.job_case import TrainingCase, training
from tests.dags.pod_case import PodCase, TaskInstance, case, cluster
from tests.steps.live import wait_for

__all__ = ["case", "cluster", "training"]

NUM_SCHEDULES, NUM_IN_CI = 200, 10
RATE = 0.15
RETRIES = 3

SEEDS = [
    pytest.param(seed, id=f"seed-{seed}", marks=[] if seed < NUM_IN_CI else [pytest.mark.slow])
    for seed in range(NUM_SCHEDULES)
]
Troubled = tuple[PodCase, Faults]

HARM: Counter[Fault] = Counter()
SEEN: set[int] = set()
"""What the schedules of this session did, and their seeds."""


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever polls, or waits before it asks again, do so often."""
    sleep, async_sleep = time.sleep, asyncio.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *result: async_sleep(min(seconds, 0.02), *result))


@pytest.fixture
def alone(tmp_path: Path) -> Callable[[], bool]:
    """Return whether the step of each node has never run twice at once."""
    return lambda: not list(tmp_path.glob("alone*.twice"))


@pytest.fixture
def troubled(case: PodCase, training: TrainingCase, tmp_path: Path) -> Iterator[Callable[[int], Troubled]]:
    """Return what gives a schedule's task, on a cluster with its faults."""

    def troubled(seed: int) -> Troubled:
        chosen = training if seed % 2 else case
        chosen.tell(result={"n": 1}, alone=str(tmp_path / "alone"), seconds=0.2)
        faults = Faults(seed, RATE, silence_seconds=0.1)
        case.cluster.use(faults)
        return chosen, faults

    yield troubled
    case.cluster.use(NO_FAULTS)


def outcome(case: PodCase) -> tuple[str, str]:
    """Try a task as often as Airflow does; return its last state and what it said."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    said = ""
    for number in range(1, RETRIES + 2):
        ti = TaskInstance(try_number=number, max_tries=RETRIES)
        try:
            receipt = case.run(ti)
        except AirflowFailException as error:
            return "failed", str(error)
        except AirflowException as error:
            said = str(error)
        else:
            assert receipt["result"] == {"n": 1}
            return "success", ""
    return "failed", said


def reap(state: str) -> None:
    """Run the reaper where Airflow says that all tasks are in a state."""
    from slipway.pods.reaper import ReaperOperator

    def get_task_states(*, task_ids: list[str], run_ids: list[str], **_others: Any) -> dict[str, dict[str, str]]:
        return {run: dict.fromkeys(task_ids, state) for run in run_ids}

    ti: Any = SimpleNamespace(get_task_states=get_task_states, try_number=1, max_tries=0)
    context: Any = {"ti": ti}
    ReaperOperator(task_id="reap").execute(context)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_schedule_ends_well_or_with_a_plain_error_and_leaves_nothing(
    seed: int,
    troubled: Callable[[int], Troubled],
    training: TrainingCase,
    alone: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, faults = troubled(seed)
    state, said = outcome(task)
    assert state == "success" or said
    assert alone()
    HARM.update(faults.done)
    SEEN.add(seed)
    task.cluster.use(NO_FAULTS)
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(0))
    reap(state)
    wait_for(training.is_clear, "nothing is left")


def test_the_schedules_did_harm() -> None:
    """Without faults the test above would hold as well; it runs after it."""
    if len(SEEN) < NUM_IN_CI:
        pytest.skip(f"needs {NUM_IN_CI} schedules that ran before it")
    assert sum(HARM.values()) >= NUM_IN_CI
    assert len(HARM) >= 3


def test_a_step_that_is_not_taken_up_again_runs_twice_at_once(
    case: PodCase, tmp_path: Path, alone: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is what the schedules would find."""
    from airflow.sdk.exceptions import TaskDeferred

    from slipway.pods.operator import StepPodOperator

    case.tell(alone=str(tmp_path / "alone"), then_waits=str(tmp_path / "never"))
    monkeypatch.setattr(StepPodOperator, "_own_pod", lambda _self: None)
    for number in (1, 2):
        ti = TaskInstance(try_number=number)
        with pytest.raises(TaskDeferred):
            case.operator().execute(case.context(ti))
    wait_for(lambda: not alone(), "two pods run the step")
