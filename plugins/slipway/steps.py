"""Work steps as tasks, and the one place that decides where they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.settings import Settings
from slipway.errors import translated
from slipway.operators import LifecycleOperator, finished
from slipway.requests import request_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from pipelines.runner import WorkStep


def step_task(task_id: str, **arguments: Any) -> BaseOperator:
    """Return the task of the work step that is named like it: a process of the worker's machine, or a pod.

    Args:
        task_id: name of the step.
        arguments: of any Airflow task.
    """
    if Settings().platform == "local":
        return StepOperator(task_id=task_id, **arguments)
    from slipway.pods.operator import StepPodOperator  # its imports take seconds
    from slipway.pods.training import TrainingPodOperator

    operator = TrainingPodOperator if task_id == "train" else StepPodOperator
    return operator(task_id=task_id, **arguments)


class StepOperator(LifecycleOperator):
    """Run the work step that is named like the task, as a process of this machine."""

    ui_color = "#dbeafe"

    _running: WorkStep | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step and return its receipt."""
        from pipelines.runner import WorkStep

        settings = Settings()
        with translated(context["ti"], self.retries or 0):
            request = request_of(self, context, settings)
            self._running = WorkStep(self.task_id, request.spec_uri, request.info, settings)
            receipt = self._running.run(request.inputs(settings), lambda line: self.log.info("%s", line))
            return finished(self, context, receipt)

    def on_kill(self) -> None:
        """End the step's process and everything below it."""
        if self._running is not None:
            self._running.stop()
