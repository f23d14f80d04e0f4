"""The DAG file: what it shows of a spec, and what a broken spec does."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.lifecycle import upstream
from pipelines.release.course import transitions
from pipelines.spec import RolloutConfig, TriggerParams
from pipelines.step import WORK_STEPS
from tests.airflow_case import ROOT, Lifecycle

HEAVY = ("torch", "transformers", "great_expectations", "bentoml", "pandas", "polars", "kubernetes", "pipelines.ledger")
ROLLOUT = tuple(f"rollout.{name}" for name in transitions(RolloutConfig()))


@pytest.fixture
def dag(lifecycle: Lifecycle) -> Any:
    lifecycle.write_spec(text="description: A tiny model.\nowner: ml-team\nschedule: 0 3 * * *\n")
    return lifecycle.parse().dags["lifecycle_tiny"]


def test_the_chain_is_the_lifecycle(dag: Any) -> None:
    chain = [*WORK_STEPS, "backup", *ROLLOUT, "record"]
    assert set(dag.task_ids) == {*chain, "rollback"}
    for before, after in itertools.pairwise(chain):
        assert before in dag.get_task(after).upstream_task_ids


def test_every_step_comes_after_the_steps_whose_receipts_it_reads(dag: Any) -> None:
    for step in WORK_STEPS[1:]:
        assert set(upstream(step)) <= dag.get_task(step).get_flat_relative_ids(upstream=True)


def test_a_rollback_can_never_be_the_only_leaf(dag: Any) -> None:
    assert {task.task_id for task in dag.leaves} == {"record", "rollback"}
    assert dag.get_task("record").trigger_rule == "all_success"
    assert dag.get_task("rollback").trigger_rule == "one_failed"
    assert dag.get_task("rollback").upstream_task_ids == set(ROLLOUT)


def test_what_a_spec_says_is_what_the_dag_shows(dag: Any) -> None:
    assert (dag.timetable.expression, dag.catchup, dag.max_active_runs) == ("0 3 * * *", False, 1)
    assert dag.description == "A tiny model."
    assert {"slipway", "tiny"} <= dag.tags
    assert {task.owner for task in dag.tasks} == {"ml-team"}
    assert "A tiny model." in dag.doc_md


def test_every_task_is_limited_retried_and_heard(dag: Any) -> None:
    for task in dag.tasks:
        assert task.execution_timeout is not None
        assert task.retries > 0
        assert task.retry_exponential_backoff
        assert task.on_failure_callback
        assert task.doc_md
    assert dag.get_task("train").pool == "training"
    assert {dag.get_task(task).pool for task in ROLLOUT} == {"release"}


def test_the_pools_are_those_that_the_stack_makes(dag: Any) -> None:
    from pipelines.stack.airflow import POOLS

    assert {task.pool for task in dag.tasks} - {"default_pool"} <= set(POOLS)


def test_the_form_is_that_of_the_trigger_params(dag: Any) -> None:
    assert dag.params.dump().keys() == TriggerParams.model_fields.keys()
    assert set(dag.params.dump().values()) == {None}, "nothing needs to be filled in"
    assert dag.params.get_param("force").schema["items"]["enum"] == list(WORK_STEPS)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        pytest.param({"max_steps": 0}, "less than the minimum of 1", id="no-steps"),
        pytest.param({"max_steps": "many"}, "not of type", id="not-a-number"),
        pytest.param({"force": ["trian"]}, "is not one of", id="unknown-step"),
        pytest.param({"force": "train"}, "is not of type 'null', 'array'", id="not-a-list"),
        pytest.param({"note": "x" * 2001}, "too long", id="long-note"),
    ],
)
def test_the_form_refuses_what_cannot_work(dag: Any, conf: dict[str, Any], message: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError, match=message):
        dag.params.update(conf)


def test_a_broken_spec_says_so_and_takes_no_other_model_down(lifecycle: Lifecycle) -> None:
    lifecycle.write_spec("bad", "trainning: {}\n")
    lifecycle.write_spec("Bad-Name", "description: x\n")
    bag = lifecycle.parse()
    assert bag.import_errors == {}
    assert set(bag.dags) == {"lifecycle_tiny", "lifecycle_bad", "lifecycle_Bad-Name"}
    bad = bag.dags["lifecycle_bad"]
    assert "unknown key 'trainning'" in bad.doc_md
    assert "broken-spec" in bad.tags
    assert bad.dag_display_name == "lifecycle_bad (broken spec)"
    assert {*WORK_STEPS, "backup", "rollout.stage", "record", "rollback"} <= set(bad.task_ids)
    assert type(bad.timetable).__name__ == "NullTimetable"


def test_a_task_builds_its_own_dag_only(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        lifecycle.write_spec(name)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "lifecycle_two")
    assert set(lifecycle.parse().dags) == {"lifecycle_two"}


def parsed_in_a_fresh_process(folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the DAGs of a folder, its import errors, and which heavy modules parsing it loaded."""
    script = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder={str(folder)!r})
print(json.dumps([sorted(bag.dags), bag.import_errors, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    dags, errors, heavy = json.loads(done.stdout.splitlines()[-1])
    return dags, errors, heavy


def test_parsing_all_dags_loads_nothing_heavy(lifecycle: Lifecycle) -> None:
    assert parsed_in_a_fresh_process(ROOT / "dags") == (["backup", "lifecycle_tiny", "rollback"], {}, [])


def test_the_guard_sees_a_heavy_import(lifecycle: Lifecycle, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import pandas\nfrom airflow.sdk import DAG\nwith DAG('heavy'): pass\n")
    assert parsed_in_a_fresh_process(tmp_path) == (["heavy"], {}, ["pandas"])


def test_parsing_twice_gives_one_dag_version(lifecycle: Lifecycle) -> None:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization

    lifecycle.write_spec("bad", "trainning: {}\n")
    hashes = [
        {name: SerializedDagModel.hash(DagSerialization.to_dict(dag)) for name, dag in lifecycle.parse().dags.items()}
        for _ in range(2)
    ]
    assert hashes[0] == hashes[1]


def stability_errors(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what Airflow's own check for DAGs that change with every parsing says."""
    from airflow.utils.dag_version_inflation_checker import check_dag_file_stability

    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL", "error")
    return check_dag_file_stability(str(path)).get_error_format_dict(str(path), path.parent) or {}


def test_airflows_own_check_finds_nothing_that_varies(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stability_errors(ROOT / "dags" / "lifecycle.py", monkeypatch) == {}


def test_airflows_own_check_finds_what_varies(
    airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    varying = tmp_path / "varying.py"
    varying.write_text(
        "from datetime import datetime\nfrom airflow.sdk import DAG\nDAG('v', start_date=datetime.now())\n"
    )
    assert list(stability_errors(varying, monkeypatch)) == ["varying.py"]
