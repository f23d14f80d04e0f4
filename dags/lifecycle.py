"""One DAG for each model spec, from raw data to a service that answers: a table of contents of `pipelines`."""

from __future__ import annotations

from airflow.sdk import DAG, TaskGroup, TriggerRule

from slipway.assets import asset
from slipway.backup import BackupOperator
from slipway.dag import RELEASE_POOL, TRAINING_POOL, TRAINING_TIMEOUT, dag_arguments
from slipway.operators import FreezeOperator, RecordOperator, RollbackOperator, StepOperator
from slipway.rollout import rollout_tasks
from slipway.specs import ListedSpec, listed_specs


def lifecycle(listed: ListedSpec) -> None:
    """Build the DAG of one model; Airflow registers it by itself."""
    model = listed.spec.name
    with DAG(**dag_arguments(listed)):
        frozen = FreezeOperator(task_id="freeze")
        validated = StepOperator(task_id="validate", outlets=[asset(model, "dataset")])
        prepared = StepOperator(task_id="prepare")
        trained = StepOperator(task_id="train", pool=TRAINING_POOL, execution_timeout=TRAINING_TIMEOUT)
        evaluated = StepOperator(task_id="evaluate")
        packaged = StepOperator(task_id="package", outlets=[asset(model, "version")])

        backed_up = BackupOperator(task_id="backup")

        with TaskGroup("rollout", default_args={"pool": RELEASE_POOL}) as rollout:
            phases = rollout_tasks(listed.spec.rollout)

        recorded = RecordOperator(task_id="record", outlets=[asset(model, "release")])
        rolled_back = RollbackOperator(task_id="rollback", trigger_rule=TriggerRule.ONE_FAILED)

        frozen >> validated >> prepared >> trained >> evaluated >> packaged >> backed_up >> rollout >> recorded
        phases >> rolled_back


for listed in listed_specs():
    lifecycle(listed)
