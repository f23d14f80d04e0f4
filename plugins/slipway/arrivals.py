"""Runs that start on new objects. What waits is a DAG of its own: nobody's run by hand queues behind it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from slipway.dag import task_defaults
from slipway.specs import ListedSpec

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

PURPOSE = "arrivals"
WAIT = "wait"
RUN_ID = "run_id"
"""XCom with the id of the run that new objects start."""

_LONGEST_WAIT = timedelta(days=7)
_LOOK_SECONDS = 60.0


def arrival_arguments(listed: ListedSpec) -> dict[str, Any]:
    """Return the arguments of the DAG that waits for a model's objects: one run at a time, always one."""
    spec = listed.spec
    return {
        "dag_id": listed.dag_of(PURPOSE),
        "description": f"Waits for new objects at {spec.start_on} and starts {listed.dag_id}",
        "doc_md": _DOCUMENTATION.format(url=spec.start_on, dag_id=listed.dag_id, days=_LONGEST_WAIT.days),
        "schedule": "@continuous",
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["slipway", spec.name, PURPOSE],
        "default_args": {**task_defaults(spec.name, spec.owner), "execution_timeout": _LONGEST_WAIT},
    }


def wait_for_objects(listed: ListedSpec) -> BaseOperator:
    """Return the task that waits, deferred, until an object is newer than those that started a run."""
    from pipelines.settings import Settings
    from slipway.sensors import NewObjectsSensor  # its imports take seconds

    return NewObjectsSensor(
        task_id=WAIT,
        bucket_key=listed.spec.start_on,
        lifecycle=listed.dag_id,
        aws_conn_id=Settings().aws_conn_id or None,
        poke_interval=_LOOK_SECONDS,
        timeout=_LONGEST_WAIT.total_seconds(),
    )


def start_lifecycle(listed: ListedSpec) -> BaseOperator:
    """Return the task that starts the lifecycle. The run's id names the objects, so that they start one run."""
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

    return TriggerDagRunOperator(
        task_id="start",
        trigger_dag_id=listed.dag_id,
        trigger_run_id=f"{{{{ ti.xcom_pull(task_ids='{WAIT}', key='{RUN_ID}') }}}}",
        skip_when_already_exists=True,
    )


_DOCUMENTATION = """Waits for an object at `{url}` that is newer than those that started a run before, and starts
`{dag_id}`, whose run is named after the newest object. Objects that are there at the beginning start the first run.

A run waits {days} days at most, then it fails, and the next one waits. Pause this DAG, and nothing starts by itself.
"""
