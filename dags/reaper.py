"""One DAG, on a cluster only, that removes what no task waits for."""

from __future__ import annotations

from airflow.sdk import DAG

from pipelines.settings import Settings

if Settings().platform == "kubernetes":
    from slipway.pods.reaper import ReaperOperator, reaper_arguments

    with DAG(**reaper_arguments()):
        ReaperOperator(task_id="reap")
