"""The training as a task: one pod, or on several nodes an Indexed Job whose pods run the same command.

In a queue one pod is such a Job, too: it is suspended until there is room, and nothing has to be waited for before.
"""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.sdk import Context
from airflow.triggers.base import TriggerEvent
from kubernetes.client import models as k8s

from pipelines import labels
from pipelines.errors import PodRefused, ReceiptMissing, SlipwayError
from pipelines.pods.job import training_job
from pipelines.pods.trainings import explain_job, explain_podless, lacks_pods, why_podless
from pipelines.runner import StepTry
from pipelines.settings import Settings
from pipelines.spec import TrainingResources
from pipelines.step import RunInfo
from slipway.pods.cluster import check_gpus, refusals_told
from slipway.pods.jobs import Jobs
from slipway.pods.operator import StepPodOperator
from slipway.pods.watching import TrainingTrigger
from slipway.requests import request_of
from slipway.retries import is_last_try


class TrainingPodOperator(StepPodOperator):
    """Run the training where the spec says: in a pod, or in several."""

    _job = ""

    def _run(self, context: Context, settings: Settings) -> dict[str, Any] | None:
        resources = self._resources
        if not isinstance(resources, TrainingResources) or (resources.nodes == 1 and resources.queue is None):
            return super()._run(context, settings)
        trigger = self._trigger(context, resources, settings)
        if resources.queue is None:  # else Kueue knows which nodes there are, or may come
            self._check_gpus_of_job(resources, settings)
        if self.deferrable:
            self.defer(trigger=trigger, method_name="job_ended", timeout=self.execution_timeout)
        return self.job_ended(context, asyncio.run(_first(trigger)).payload)

    def job_ended(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on when the Job is over or stuck: the receipt says whether the training is done, the pods why it is not.

        Raises:
            AirflowException: when it is not.
        """
        settings = Settings()
        self._job, self._pod_try = event["job"], event["try_number"]
        jobs = Jobs(settings)
        with self._translated(context, settings):
            self._request = request_of(self, context, settings)
            try:
                return self._kept_receipt(context)
            except ReceiptMissing:
                raise self._why(jobs, event) from None
            finally:
                jobs.remove(self._job)

    def _why(self, jobs: Jobs, event: dict[str, Any]) -> SlipwayError:
        """Return why a Job left no receipt: from its pods, or because whoever waits for it may not look."""
        if event["refused"]:
            return PodRefused(event["refused"])
        resources = TrainingResources.model_validate(event["resources"])
        job, cases = jobs.read(self._job), jobs.cases(self._job, self.task_id, resources)
        why = why_podless(jobs.events(self._job)) if event["gave_up"] else ""
        if job is not None and why and lacks_pods(job, cases, resources):
            return explain_podless(self.task_id, job, why, jobs.settings)
        return explain_job(self.task_id, job, cases, resources, gave_up=event["gave_up"])

    def on_kill(self) -> None:
        """Remove the Job with all its pods, or the pod."""
        if self._job:
            Jobs(Settings()).remove(self._job)
        super().on_kill()

    def _trigger(self, context: Context, resources: TrainingResources, settings: Settings) -> TrainingTrigger:
        """Return what waits for this task's Job: one that an earlier try made, if it is not over, or a new one."""
        info, jobs = self._request.info, Jobs(settings)
        is_last = is_last_try(context["ti"].try_number, context["ti"].max_tries)
        with refusals_told(f"list jobs in namespace {settings.kubernetes_namespace}", settings):
            job = jobs.find(info)
        if job is None:
            job = jobs.create(self._body(resources, settings, is_last=is_last), info)
        else:
            self.log.info("going on with job %s", job.metadata.name)
        self._job = job.metadata.name
        made_by = int(job.metadata.labels[labels.TRY])
        self._serve(jobs, job, info.model_copy(update={"try_number": made_by}), is_last=is_last)
        return TrainingTrigger(self._job, self.task_id, made_by, resources.model_dump(mode="json"))

    def _check_gpus_of_job(self, resources: TrainingResources, settings: Settings) -> None:
        jobs = Jobs(settings)
        try:
            check_gpus(jobs.core, lambda: jobs.cases(self._job, self.task_id, resources), resources)
        except PodRefused:
            jobs.remove(self._job)
            raise

    def _body(self, resources: TrainingResources, settings: Settings, *, is_last: bool) -> dict[str, Any]:
        """Return the Job of this try, whose inputs are in the store then."""
        info = self._request.info
        step = StepTry(self.task_id, self._request.spec_uri, info, settings)
        step.begin(self._inputs)
        max_restarts = self._read_spec(settings).training.max_restarts
        return training_job(step.arguments, info, resources, settings, max_restarts=max_restarts, is_last_try=is_last)

    def _serve(self, jobs: Jobs, job: k8s.V1Job, info: RunInfo, *, is_last: bool) -> None:
        """Give a Job its Service. Without it the Job goes on, and the next try takes it up, if there is one.

        If this removed the Job, the next try's pods would run beside those that are still ending.
        """
        try:
            jobs.serve(job, info)
        except SlipwayError as error:
            if is_last or not error.retryable:
                jobs.remove(job.metadata.name)
            raise


async def _first(trigger: TrainingTrigger) -> TriggerEvent:
    async for event in trigger.run():
        return event
    raise AssertionError("a trigger ends with an event")
