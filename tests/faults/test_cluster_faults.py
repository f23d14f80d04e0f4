"""A step on a cluster where calls fail, answers get lost and pods die, by schedules of many seeds.

However a schedule ends the task, it ends well or with a plain error, its step never runs twice at once, and the reaper
finds all that is left. Half of the schedules are of a training on two nodes, in half of them the task waits in its
worker, and half are harsh.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import labels
from pipelines.pods.job import job_labels
from pipelines.step import RunInfo
from tests.cluster import Fault, Faults
from tests.cluster.faults import NO_FAULTS
from tests.dags.job_case import TrainingCase, training
from tests.dags.pod_case import PodCase, TaskInstance, case, cluster
from tests.faults.endings import ENDED, FAULTS, REAPED
from tests.steps.live import wait_for

__all__ = ["case", "cluster", "training"]

NUM_SCHEDULES = 200
IN_CI = {13, 17, 44, 52, 66, 67, 88, 99, 119, 150}
"""Seeds that together have every kind of schedule and of failure."""

MILD, HARSH = 0.15, 0.3
"""Shares of calls and of pods that fail."""

RETRIES = 3

SEEDS = [
    pytest.param(seed, id=f"seed-{seed}", marks=[] if seed in IN_CI else [pytest.mark.slow])
    for seed in range(NUM_SCHEDULES)
]


@dataclass(frozen=True)
class Schedule:
    """What a seed chooses."""

    task: PodCase
    faults: Faults
    deferrable: bool


Troubled = Callable[..., Schedule]

HARM: Counter[Fault] = Counter()
LEFT: list[str] = []
SEEN: set[int] = set()
"""What the schedules of this session did and left to the reaper, and their seeds."""


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever polls, or waits before it asks again, do so often, and the reaper not wait for orphans to be old."""
    sleep, async_sleep = time.sleep, asyncio.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *result: async_sleep(min(seconds, 0.02), *result))
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(0))
    for pause in ("SOON", "WHEN_OTHERS_HAVE_ENDED"):
        monkeypatch.setattr(f"slipway.retries.{pause}", timedelta(0))


@pytest.fixture
def alone(tmp_path: Path) -> Callable[[], bool]:
    """Return whether the step of each node has never run twice at once."""
    return lambda: not list(tmp_path.glob("alone*.twice"))


@pytest.fixture
def troubled(case: PodCase, training: TrainingCase, tmp_path: Path) -> Iterator[Troubled]:
    """Return what gives a schedule, on a cluster with its faults, and may tell the step more."""

    def troubled(seed: int, **behaviour: Any) -> Schedule:
        task = training if seed % 2 else case
        own = behaviour or {"seconds": 0.2}
        task.tell(result={"n": 1}, prints=["at work"], alone=str(tmp_path / "alone"), **own)
        faults = Faults(seed, HARSH if seed // 4 % 2 else MILD, silence_seconds=0.1, life_seconds=0.3)
        case.cluster.use(faults)
        return Schedule(task, faults, deferrable=seed // 2 % 2 == 0)

    yield troubled
    case.cluster.use(NO_FAULTS)


def outcome(schedule: Schedule) -> tuple[str, str]:
    """Let Airflow run a DAG of this one task; return the task's last state, and what its last try said."""
    from airflow.sdk import DAG

    from slipway.dag import task_defaults

    said: list[str] = []
    arguments = {
        **task_defaults("tiny", owner="me"),
        "retry_delay": timedelta(0),
        "on_failure_callback": lambda context: said.append(str(context["exception"])),
    }
    with DAG("lifecycle_tiny", schedule=None, default_args=arguments) as dag:
        schedule.task.operator(deferrable=schedule.deferrable)
    (ti,) = dag.test(logical_date=None).get_task_instances()
    if ti.state == "success":
        assert ti.xcom_pull(task_ids=ti.task_id)["result"] == {"n": 1}
    return str(ti.state), " ".join(said)


def reap(state: str) -> list[str]:
    """Run the reaper where Airflow says that all tasks are in a state; return what it removed."""
    from slipway.pods.reaper import ReaperOperator

    def get_task_states(*, task_ids: list[str], run_ids: list[str], **_others: Any) -> dict[str, dict[str, str]]:
        return {run: dict.fromkeys(task_ids, state) for run in run_ids}

    ti: Any = SimpleNamespace(get_task_states=get_task_states, try_number=1, max_tries=0)
    context: Any = {"ti": ti}
    return ReaperOperator(task_id="reap").execute(context)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_schedule_ends_well_or_with_a_plain_error_and_leaves_nothing(
    seed: int,
    troubled: Troubled,
    training: TrainingCase,
    alone: Callable[[], bool],
    record_property: Callable[[str, object], None],
) -> None:
    schedule = troubled(seed)
    state, said = outcome(schedule)
    record_property(ENDED, state)
    record_property(FAULTS, sorted(fault.value for fault in schedule.faults.done))
    assert state == "success" or said
    assert "Traceback" not in said
    assert alone()
    training.cluster.use(NO_FAULTS)
    left = reap(state)
    record_property(REAPED, left)
    HARM.update(schedule.faults.done)
    LEFT.extend(left)
    SEEN.add(seed)
    wait_for(training.is_clear, "nothing is left")


def test_the_schedules_did_harm() -> None:
    """Without faults the test above would hold as well; it runs after it."""
    if not IN_CI <= SEEN:
        pytest.skip(f"needs {len(IN_CI)} schedules that ran before it")
    assert set(HARM) == set(Fault)
    assert LEFT or len(SEEN) < NUM_SCHEDULES, "without the reaper some would have failed"


AFTER_THE_JOB = 67
"""A schedule that refuses the first call after a Job was made, so that the next try finds it at work."""


def test_control_where_each_try_knows_only_its_own_job_a_schedule_runs_two_at_once(
    troubled: Troubled,
    training: TrainingCase,
    alone: Callable[[], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from slipway.pods.jobs import Jobs

    def find(jobs: Jobs, info: RunInfo) -> Any:
        listed = jobs.batch.list_namespaced_job("slipway", label_selector=labels.selector(job_labels(info)))
        return next(iter(listed.items), None)

    monkeypatch.setattr(Jobs, "find", find)
    outcome(troubled(AFTER_THE_JOB, then_waits=str(tmp_path / "alone0.twice")))
    assert not alone()


def test_control_a_pod_that_is_not_taken_up_again_runs_beside_another(
    case: PodCase, tmp_path: Path, alone: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    from slipway.pods.operator import StepPodOperator

    case.tell(alone=str(tmp_path / "alone"), then_waits=str(tmp_path / "never"))
    monkeypatch.setattr(StepPodOperator, "_own_pod", lambda _self: None)
    for number in (1, 2):
        ti = TaskInstance(try_number=number)
        with pytest.raises(TaskDeferred):
            case.operator().execute(case.context(ti))
    wait_for(lambda: not alone(), "two pods run the step")
