"""One DAG, by hand only, that returns a service to a version that was in production."""

from __future__ import annotations

from airflow.sdk import DAG

from slipway.returning import ReturnOperator, rollback_arguments
from slipway.specs import known_releases, model_names

with DAG(**rollback_arguments(model_names(), known_releases())):
    ReturnOperator(task_id="return")
