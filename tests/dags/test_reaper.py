"""The DAG that removes what nobody waits for, against a cluster."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import labels
from tests.airflow_case import ROOT, Lifecycle
from tests.cluster import Cluster
from tests.cluster.kinds import JOB, POD, SERVICE
from tests.dags.job_case import TrainingCase, training
from tests.dags.pod_case import TaskInstance, case, cluster, enter
from tests.dags.test_training_pods import deferred
from tests.steps.live import wait_for

__all__ = ["case", "cluster", "training"]


def reap(state: str | None) -> list[str]:
    """Run the reaper where Airflow says that the training's task is in a state; None: there is no such task."""
    from slipway.pods.reaper import ReaperOperator

    def get_task_states(*, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, Any]]:
        assert (dag_id, task_ids, run_ids) == ("lifecycle_tiny", ["train"], ["manual__1"])
        return {} if state is None else {"manual__1": {"train": state}}

    ti: Any = SimpleNamespace(get_task_states=get_task_states, try_number=1, max_tries=0)
    context: Any = {"ti": ti}
    return ReaperOperator(task_id="reap").execute(context)


@pytest.fixture
def left(training: TrainingCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingCase:
    """Leave a training's Job, as a worker does that dies after it made it."""
    training.tell(then_waits=str(tmp_path / "never"))
    deferred(training, TaskInstance())
    training.node(1)
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(0))
    return training


@pytest.mark.parametrize("state", ["failed", "success", "skipped", None])
def test_what_an_ended_task_left_is_removed_with_all_that_belongs_to_it(left: TrainingCase, state: str | None) -> None:
    (job,) = left.cluster.list(JOB)
    assert len(left.cluster.list(SERVICE)) == 1
    assert reap(state) == [f"Job {job['metadata']['name']}"]
    wait_for(left.is_clear, "nothing is left")


@pytest.mark.parametrize("state", ["running", "deferred", "up_for_retry", "queued"])
def test_what_a_task_may_take_up_stays(left: TrainingCase, state: str) -> None:
    assert reap(state) == []
    assert len(left.cluster.list(JOB)) == 1


def test_a_step_that_has_just_begun_stays(left: TrainingCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(minutes=10))
    assert reap(None) == []


def test_a_pod_of_its_own_is_removed_and_those_of_others_are_not(
    training: TrainingCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(0))
    ours = labels.step_labels("tiny", "manual__1", "train", 1)
    for name, labelled in {"ours": ours, "a-copy": labels.service_labels("tiny"), "anybodys": {}}.items():
        about = {"name": name, "labels": labelled, "annotations": {labels.RUN_ID: "manual__1"}}
        sleeping = [{"name": "base", "image": "slipway", "command": ["sleep", "600"]}]
        training.cluster.create(
            {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": sleeping}}
        )
    assert reap("failed") == ["Pod ours"]
    assert {pod["metadata"]["name"] for pod in training.cluster.list(POD)} >= {"a-copy", "anybodys"}


def leave(cluster: Cluster, name: str, *, run_id: str, task_id: str) -> None:
    """Leave a pod as the task of a run makes it."""
    labelled = labels.step_labels("tiny", run_id, task_id, 1)
    about = {"name": name, "labels": labelled, "annotations": {labels.RUN_ID: run_id}}
    sleeping = [{"name": "base", "image": "slipway", "command": ["sleep", "600"]}]
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": sleeping}})


def mark(run_id: str, task_id: str, state: str | None) -> None:
    """Write into Airflow's database what a scheduler would: in which state a task is."""
    from airflow.models.taskinstance import TaskInstance as Row
    from airflow.utils.session import create_session
    from sqlalchemy import update

    where = (Row.dag_id == "lifecycle_tiny", Row.run_id == run_id, Row.task_id == task_id)
    with create_session() as session:
        assert session.execute(update(Row).where(*where).values(state=state)).rowcount == 1


def test_airflows_own_api_says_which_tasks_still_wait(
    lifecycle: Lifecycle, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DAG runs in Airflow, and asks its real Execution API about runs in its real database."""
    from airflow.dag_processing.dagbag import DagBag

    import slipway.pods.reaper  # noqa: F401 - it takes seconds, and Airflow gives a DAG file few

    lifecycle.tell("freeze", status=20, leaves=False, prints=["error: stop here"])
    run = lifecycle.run()
    enter(cluster, tmp_path, monkeypatch)
    monkeypatch.setattr("pipelines.pods.orphans.MIN_AGE", timedelta(0))
    for task_id, state in {"validate": "deferred", "prepare": "up_for_retry", "train": None}.items():
        mark(run.id, task_id, state)
    for task_id in ("freeze", "validate", "prepare", "train", "evaluate", "no-such-task"):
        leave(cluster, task_id, run_id=run.id, task_id=task_id)
    leave(cluster, "no-such-run", run_id="manual__deleted", task_id="train")

    (dag,) = DagBag(dag_folder=str(ROOT / "dags" / "reaper.py")).dags.values()
    reaped = dag.test(logical_date=None)

    assert str(reaped.state) == "success"
    kept = {pod["metadata"]["name"] for pod in cluster.pods() if "deletionTimestamp" not in pod["metadata"]}
    assert kept == {"validate", "prepare", "train"}, "what is failed, skipped, gone or deleted waits for nothing"
    cluster.clear()


@pytest.mark.usefixtures("airflow_home")
@pytest.mark.parametrize(("platform", "dags"), [("kubernetes", ["reaper"]), ("local", [])])
def test_the_dag_is_there_on_a_cluster_only(monkeypatch: pytest.MonkeyPatch, platform: str, dags: list[str]) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("SLIPWAY_PLATFORM", platform)
    assert list(DagBag(dag_folder=str(ROOT / "dags" / "reaper.py")).dags) == dags
