"""Wait for a training on several nodes without holding a worker; what its pods print is in the task's log meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from pipelines.errors import SlipwayError
from pipelines.pods.failures import Case
from pipelines.pods.trainings import Outlook, lacks_pods, name_of, outlook
from pipelines.settings import Settings
from pipelines.spec import TrainingResources
from slipway.pods.cluster import refusal
from slipway.pods.jobs import Jobs, PodLogs

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Between two looks at a Job."""

LOG_SECONDS = 5.0
"""How far the log in Airflow's UI may be behind the pods'."""


class JobWatch:
    """Looks at one Job again and again."""

    def __init__(self, jobs: Jobs, name: str, step: str, resources: TrainingResources) -> None:
        """Take the Job's name, the step that it does, and what the spec gives that."""
        self._jobs = jobs
        self._name = name
        self._step = step
        self._resources = resources
        self._logs = PodLogs(jobs)
        self._logged_at = 0.0
        self._pending_since: dict[str, float] = {}

    def look(self) -> Outlook:
        """Return whether waiting is of use; a cluster that does not answer may answer later.

        Raises:
            SlipwayError: when this process may not look.
        """
        try:
            job = self._jobs.read(self._name)
            cases = self._jobs.glance(self._name, self._step, self._resources)
        except (ApiException, HTTPError) as error:
            problem = refusal(error, f"look at job {self._name}", self._jobs.settings)
            if not problem.retryable:
                raise problem from None
            logger.warning("%s", problem)
            return Outlook.GOES_ON
        found = outlook(job, cases, self._waited(job, cases), self._resources)
        self._forward_logs(cases, is_last=found is not Outlook.GOES_ON)
        return found

    def _waited(self, job: dict[str, Any] | None, cases: list[Case]) -> dict[str, float]:
        """Return for how many seconds each pod has been seen not to run, and the Job to have too few."""
        now = time.monotonic()
        pending = {case.name for case in cases if case.status.get("phase") == "Pending"}
        if job is not None and lacks_pods(job, cases, self._resources):
            pending.add(name_of(job))
        self._pending_since = {name: self._pending_since.get(name, now) for name in pending}
        return {name: now - since for name, since in self._pending_since.items()}

    def _forward_logs(self, cases: list[Case], *, is_last: bool) -> None:
        if not is_last and time.monotonic() - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        for case in cases:
            if case.container and "waiting" not in case.container:
                self._logs.forward(case)


class TrainingTrigger(BaseTrigger):
    """Fire when a training's Job is over or stuck; the task then reads receipt and pods itself."""

    def __init__(self, job: str, step: str, try_number: int, resources: dict[str, Any]) -> None:
        """Take the Job's name, the step that it does, the try that made it, and what the spec gives it."""
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow leaves it untyped
        self.job = job
        self.step = step
        self.try_number = try_number
        self.resources = resources

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again in the triggerer."""
        return "slipway.pods.watching.TrainingTrigger", self._arguments()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the Job until there is something to do."""
        resources = TrainingResources.model_validate(self.resources)
        watch = JobWatch(Jobs(Settings()), self.job, self.step, resources)
        found, refused = Outlook.GOES_ON, ""
        try:
            while (found := await asyncio.to_thread(watch.look)) is Outlook.GOES_ON:
                await asyncio.sleep(CHECK_SECONDS)
        except SlipwayError as error:
            refused = str(error)
        payload = {**self._arguments(), "gave_up": found is Outlook.STUCK, "refused": refused}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow leaves it untyped

    async def on_kill(self) -> None:
        """Remove the Job with all its pods: somebody cleared or marked the task."""
        await asyncio.to_thread(Jobs(Settings()).remove, self.job)

    def _arguments(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "step": self.step,
            "try_number": self.try_number,
            "resources": self.resources,
        }
