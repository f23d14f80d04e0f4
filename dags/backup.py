"""One DAG that saves the whole installation, on schedule."""

from __future__ import annotations

from airflow.sdk import DAG

from slipway.backup import ScheduledBackupOperator, backup_arguments

with DAG(**backup_arguments()):
    ScheduledBackupOperator(task_id="backup")
