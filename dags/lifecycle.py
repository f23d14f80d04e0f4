"""One DAG for each model spec, from raw data to a service that answers: a table of contents of `pipelines`."""

from __future__ import annotations

from airflow.sdk import DAG, TaskGroup, TriggerRule

from slipway.assets import asset
from slipway.backup import BackupOperator
from slipway.dag import RELEASE_POOL, TRAINING_POOL, TRAINING_TIMEOUT, dag_arguments
from slipway.operators import RecordOperator, RollbackOperator
from slipway.rollout import rollout_tasks
from slipway.specs import ListedSpec, listed_specs
from slipway.steps import step_task


def lifecycle(listed: ListedSpec) -> None:
    """Build the DAG of one model; Airflow registers it by itself."""
    model = listed.spec.name
    with DAG(**dag_arguments(listed)):
        frozen = step_task("freeze")
        validated = step_task("validate", outlets=[asset(model, "dataset")])
        prepared = step_task("prepare")
        trained = step_task("train", pool=TRAINING_POOL, execution_timeout=TRAINING_TIMEOUT)
        evaluated = step_task("evaluate")
        packaged = step_task("package", outlets=[asset(model, "version")])

        backed_up = BackupOperator(task_id="backup")

        with TaskGroup("rollout", default_args={"pool": RELEASE_POOL}) as rollout:
            phases = rollout_tasks(listed.spec.rollout)

        recorded = RecordOperator(task_id="record", outlets=[asset(model, "release")])
        rolled_back = RollbackOperator(task_id="rollback", trigger_rule=TriggerRule.ONE_FAILED)

        frozen >> validated >> prepared >> trained >> evaluated >> packaged >> backed_up >> rollout >> recorded
        phases >> rolled_back


for listed in listed_specs():
    lifecycle(listed)
