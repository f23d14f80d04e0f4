"""Listen to Airflow: push the metrics of lifecycle tasks, each in its own process; preload where tasks are forked."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

logger = logging.getLogger(__name__)

DAG_PREFIX = "lifecycle_"


@hookimpl
def on_starting(component: Any) -> None:
    """Preload in scheduler, DAG processor and triggerer; a task says that it starts as well, and needs nothing."""
    if type(component).__name__ != "Job":
        return
    try:
        from slipway.preload import preload

        preload()
    except Exception as error:  # noqa: BLE001 - without it all goes on as well, but slower
        logger.warning("tasks will start slower: nothing was preloaded: %s", error)


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: RuntimeTaskInstance) -> None:
    """Report a task that succeeded."""
    report(task_instance, "success")


@hookimpl
def on_task_instance_failed(previous_state: Any, task_instance: RuntimeTaskInstance, error: Any) -> None:
    """Report a task that failed, for now or for good."""
    report(task_instance, "failed")


@hookimpl
def on_task_instance_skipped(previous_state: Any, task_instance: RuntimeTaskInstance) -> None:
    """Report a task that had nothing to do."""
    report(task_instance, "skipped")


def report(task_instance: RuntimeTaskInstance, state: str) -> None:
    """Push a task's numbers; whatever goes wrong is a line in the log."""
    try:
        for problem in _push(task_instance, state):
            logger.warning("metrics of %s were not pushed: %s", task_instance.task_id, problem)
    except Exception as error:  # noqa: BLE001 - a listener must never break a task
        logger.warning("metrics of a task were not pushed: %s", error)


def _push(task_instance: RuntimeTaskInstance, state: str) -> list[Exception]:
    from pipelines.settings import Settings
    from slipway.metrics import TaskMetrics, push

    settings = Settings()
    model = getattr(task_instance.task, "model", "")
    if not task_instance.dag_id.startswith(DAG_PREFIX) or not (settings.statsd or settings.pushgateway):
        return []
    ended = task_instance.end_date.timestamp() if task_instance.end_date else time.time()
    started = task_instance.start_date.timestamp() if task_instance.start_date else ended
    return push(TaskMetrics(model, task_instance.task_id, state, max(0.0, ended - started), ended), settings)
