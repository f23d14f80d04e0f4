"""The DAG of scheduled backups, and the backup as a task of a run."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import StoreUnavailable
from pipelines.settings import Settings
from pipelines.step import Receipt, RunInfo
from pipelines.steps import backup
from pipelines.store import Store
from tests.airflow_case import ROOT, Lifecycle

SAVED = backup.Result(is_skipped=False, detail="backup b: docs v1", backup="b", digest="d" * 64, num_written=3)


def parse() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags" / "backup.py"))
    assert bag.import_errors == {}
    return bag.dags["backup"]


def test_it_is_scheduled_limited_retried_and_heard(lifecycle: Lifecycle) -> None:
    dag = parse()
    (task,) = dag.tasks
    assert (dag.timetable.expression, dag.catchup, dag.max_active_runs) == ("0 0 * * *", False, 1)
    assert "backup restore" in dag.doc_md
    assert task.execution_timeout is not None
    assert task.retries > 0
    assert task.retry_exponential_backoff
    assert task.on_failure_callback
    assert task.owner == "slipway"
    assert task.doc_md


@pytest.mark.parametrize(("schedule", "expected"), [("0 3 * * 0", "0 3 * * 0"), ("", None)])
def test_the_schedule_is_a_setting(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, schedule: str, expected: str | None
) -> None:
    monkeypatch.setenv("SLIPWAY_BACKUP_SCHEDULE", schedule)
    timetable = parse().timetable
    assert getattr(timetable, "expression", None) == expected


def run(dag: Any) -> Any:
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    return dag.test(logical_date=None)


def test_a_run_leaves_a_receipt_that_names_the_backup(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[backup.Inputs] = []

    def save(inputs: backup.Inputs, settings: Settings) -> backup.Result:
        asked.append(inputs)
        return SAVED

    monkeypatch.setattr(backup, "run", save)
    done = run(parse())
    assert str(done.state) == "success"
    assert [inputs.spec for inputs in asked] == [None]
    content = done.get_task_instance("backup").xcom_pull(task_ids="backup")
    assert content["result"] == SAVED.model_dump(mode="json")
    assert Store(lifecycle.settings.store_url()).read(asked[0].run.receipt_uri) is not None


def test_a_store_that_comes_back_is_tried_again(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([StoreUnavailable("store: away"), None])

    def save(inputs: backup.Inputs, settings: Settings) -> backup.Result:
        problem = next(outcomes)
        if problem is not None:
            raise problem
        return SAVED

    monkeypatch.setattr(backup, "run", save)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    done = run(parse())
    assert str(done.state) == "success"
    assert done.get_task_instance("backup").try_number == 2


def test_what_a_retry_cannot_help_fails_at_once(lifecycle: Lifecycle) -> None:
    """The tests' ledger is SQLite, which cannot be dumped."""
    done = run(parse())
    assert str(done.state) == "failed"
    assert done.get_task_instance("backup").try_number == 1


def test_before_a_rollout_the_frozen_spec_is_asked(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.backup import BackupOperator

    asked: list[backup.Inputs] = []

    def save(inputs: backup.Inputs, settings: Settings) -> backup.Result:
        asked.append(inputs)
        return SAVED

    monkeypatch.setattr(backup, "run", save)
    info = RunInfo(model="tiny", run_id="r", task_id="freeze")
    frozen = Receipt(step="freeze", run=info, key="k", started=0, seconds=0, result=lifecycle.steps["freeze"]["result"])
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"freeze": frozen.model_dump()}[task_ids])
    BackupOperator(task_id="backup", model="tiny")._ask({"ti": ti}, info, lifecycle.settings)
    ((inputs,),) = [asked]
    assert inputs.run == info
    assert inputs.spec is not None
    assert inputs.spec.model_dump() == frozen.result["spec"]
