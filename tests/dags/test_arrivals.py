"""Runs that start on new objects: the sensor and its trigger against a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import SpecError
from pipelines.spec import parse_spec
from tests.airflow_case import ROOT, TINY, Lifecycle
from tests.live_s3 import LiveS3

DAG_FILE = ROOT / "dags" / "arrivals.py"


@pytest.fixture
def bucket(s3: LiveS3, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a bucket whose objects start the model `tiny`."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    name = s3.make_bucket()
    lifecycle.write_spec(text=f"{TINY}start_on: s3://{name}/new/*.jsonl\n")
    return name


def parsed() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(DAG_FILE))
    assert not bag.import_errors
    return bag.dags


def wait() -> tuple[str, str | None]:
    """Run the first task, its trigger too; return its state and the id of the run to start."""
    dag = parsed()["arrivals_tiny"]
    dag.get_task("wait").poke_interval = 0.05
    run = dag.partial_subset("wait", include_downstream=False, include_upstream=False).test(logical_date=None)
    (ti,) = run.get_task_instances()
    return str(ti.state), ti.xcom_pull(task_ids="wait", key="run_id")


def test_a_spec_that_waits_for_nothing_has_no_such_dag_and_imports_no_provider(lifecycle: Lifecycle) -> None:
    code = (
        "import sys; from airflow.dag_processing.dagbag import DagBag;"
        f"bag = DagBag(dag_folder={str(DAG_FILE)!r}); assert not bag.import_errors and not bag.dags, bag.dags;"
        "print([name for name in sys.modules if name.startswith('airflow.providers.amazon.aws')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.usefixtures("bucket")
def test_the_dag_waits_and_starts_and_never_twice_at_once() -> None:
    dag = parsed()["arrivals_tiny"]
    assert (dag.max_active_runs, dag.schedule) == (1, "@continuous")
    assert dag.get_task("wait").downstream_task_ids == {"start"}
    assert dag.get_task("start").trigger_dag_id == "lifecycle_tiny"
    assert dag.get_task("wait").deferrable


def test_objects_start_a_run_that_is_named_after_them(s3: LiveS3, bucket: str) -> None:
    s3.put(bucket, "new/a.jsonl", b"{}")
    state, run_id = wait()
    assert state == "success"
    assert run_id is not None
    assert run_id.startswith(f"objects__{datetime.now(UTC):%Y-%m-%dT}")


@pytest.mark.slow
def test_objects_that_started_a_run_are_no_news_until_there_are_newer_ones(
    s3: LiveS3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    s3.put(bucket, "new/a.jsonl", b"{}")
    asked: list[str] = []

    def count(dag_id: str, run_ids: list[str]) -> int:
        """Know the run of the object that was there first; at the third look there is another one."""
        asked.extend(run_ids)
        if len(asked) == 2:
            s3.put(bucket, "new/b.jsonl", b"{}")
        return int(dag_id == "lifecycle_tiny" and run_ids == asked[:1])

    monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", staticmethod(count))
    state, run_id = wait()
    assert state == "success"
    assert (asked[0], asked[0], run_id) == tuple(asked)
    assert run_id != asked[0]


def file(key: str, seconds: int, tag: str = "x") -> dict[str, Any]:
    return {"Key": key, "ETag": tag, "LastModified": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)}


def test_what_is_removed_makes_nothing_new_and_what_comes_or_changes_does(airflow_home: Path) -> None:
    from slipway.sensors import run_id_of

    before = run_id_of([file("a", 1), file("b", 2)])
    assert run_id_of([file("b", 2)]) == before
    told = [{**each, "LastModified": each["LastModified"].isoformat()} for each in (file("b", 2), file("a", 1))]
    assert run_id_of(json.loads(json.dumps(told))) == before, "as it comes through the triggerer"
    others = [[file("a", 1), file("b", 2), file("c", 2)], [file("a", 1), file("b", 3)], [file("b", 2, "y")]]
    assert len({before, *(run_id_of(files) for files in others)}) == 4


@pytest.mark.parametrize("url", ["https://host/new/*", "s3://bucket", "s3://bucket/", "new/*"])
def test_only_objects_on_s3_can_be_waited_for(url: str) -> None:
    with pytest.raises(SpecError, match=r"start_on: .*s3://bucket/key"):
        parse_spec({"name": "m", "start_on": url})
