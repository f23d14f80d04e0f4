"""The Job of one task on the cluster: found, made, looked at, removed; and what its pods print."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.utils.pod_manager import parse_log_line
from kubernetes.client import ApiException, BatchV1Api, CoreV1Api
from kubernetes.client import models as k8s
from urllib3.exceptions import HTTPError

from pipelines import labels
from pipelines.cluster.access import access
from pipelines.errors import PodLost
from pipelines.pods.failures import Case
from pipelines.pods.job import headless_service, job_labels
from pipelines.pods.manifest import CONTAINER
from pipelines.settings import Settings
from pipelines.spec import StepResources
from pipelines.step import RunInfo
from slipway.pods.cluster import case_of, events_of, refusals_told

logger = logging.getLogger(__name__)

_CONFLICT, _NOT_FOUND = 409, 404
_ALREADY_EXISTS = "AlreadyExists"
"""Why a conflict is none: another reason is that a quota was counted anew meanwhile, and then nothing was made."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_OVERLAP_SECONDS = 2
"""By how much two readings of a log overlap: times are asked for in whole seconds."""


@dataclass
class Jobs:
    """The Jobs of this installation."""

    settings: Settings

    @cached_property
    def _hook(self) -> KubernetesHook:
        found = access(self.settings)
        return KubernetesHook(
            conn_id=None,
            in_cluster=found.is_in_cluster or None,
            config_file=found.file,
            cluster_context=found.context,
        )

    @property
    def core(self) -> CoreV1Api:
        """Client for pods and Services."""
        return self._hook.core_v1_client

    @property
    def batch(self) -> BatchV1Api:
        """Client for Jobs."""
        client: BatchV1Api = self._hook.batch_v1_client
        return client

    def find(self, info: RunInfo) -> k8s.V1Job | None:
        """Return the Job of a task that has neither failed nor is about to go, whichever try made it."""
        found_by = job_labels(info)
        del found_by[labels.TRY]
        listed = self.batch.list_namespaced_job(self._namespace, label_selector=labels.selector(found_by))
        return next((job for job in listed.items if _is_useful(job)), None)

    def create(self, body: Mapping[str, Any], info: RunInfo) -> k8s.V1Job:
        """Make a Job; one of its name that is there already is ours, made by a request whose answer was lost.

        Raises:
            PodLost: when the Job of this name is still ending.
        """
        what = f"job {self._namespace}/{body['metadata']['name']}"
        with refusals_told(f"create {what}", self.settings), _there_already_is_fine():
            self.batch.create_namespaced_job(self._namespace, body)
        job = self.find(info)
        if job is None:
            raise PodLost(f"{info.task_id}: {what} of this try is still ending; it is tried again")
        return job

    def serve(self, job: k8s.V1Job, info: RunInfo) -> None:
        """Make the Service that goes with a Job of this try; one that is there already is its own."""
        service = headless_service(info, self.settings, job_uid=job.metadata.uid)
        what = f"create service of job {self._namespace}/{job.metadata.name}"
        with refusals_told(what, self.settings), _there_already_is_fine():
            self.core.create_namespaced_service(self._namespace, service)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a Job as plain data; None: it is gone."""
        try:
            job = self.batch.read_namespaced_job(name, self._namespace)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        plain: dict[str, Any] = self.core.api_client.sanitize_for_serialization(job)
        return plain

    def events(self, name: str) -> tuple[dict[str, Any], ...]:
        """Return the events of a Job itself, oldest first."""
        return events_of(self.core, name, self._namespace)

    def cases(self, name: str, step: str, resources: StepResources) -> list[Case]:
        """Return all that is known of each pod of a Job, events too: two requests for each."""
        return [case for pod in self._pods(name) if (case := case_of(self.core, pod, step, resources))]

    def glance(self, name: str, step: str, resources: StepResources) -> list[Case]:
        """Return what each pod of a Job says of itself: one request for all."""
        plain = self.core.api_client.sanitize_for_serialization
        return [Case(step, plain(pod), (), resources) for pod in self._pods(name)]

    def remove(self, name: str) -> None:
        """Remove a Job, and with it its pods and its Service; one that is gone is no trouble."""
        try:
            self.batch.delete_namespaced_job(name, self._namespace, propagation_policy="Background")
        except (ApiException, HTTPError) as error:
            if getattr(error, "status", 0) != _NOT_FOUND:
                logger.warning("job %s/%s is not removed, but left to the reaper: %s", self._namespace, name, error)

    def log_lines(self, pod: str, seconds: int | None) -> list[str] | None:
        """Return what a pod has printed in the last seconds, with times; None when it cannot be asked at present."""
        since = {} if seconds is None else {"since_seconds": seconds}
        try:
            answer = self.core.read_namespaced_pod_log(
                pod,
                self._namespace,
                container=CONTAINER,
                timestamps=True,
                _preload_content=False,  # the client would make text of bytes by `str`
                **since,
            )
            text: str = answer.data.decode(errors="replace")
        except (ApiException, HTTPError):
            return None
        return text.splitlines()

    def _pods(self, name: str) -> list[k8s.V1Pod]:
        """Return the pods of a Job by their numbers, those that were replaced before the present ones."""
        listed = self.core.list_namespaced_pod(self._namespace, label_selector=f"job-name={name}")
        return sorted(listed.items, key=lambda pod: (node_of(pod.metadata.labels), pod.metadata.creation_timestamp))

    @property
    def _namespace(self) -> str:
        return self.settings.kubernetes_namespace


@dataclass
class PodLogs:
    """Passes on what pods print, each line once, with the number of its node."""

    jobs: Jobs
    _read: dict[str, float] = field(default_factory=dict)
    """By pod, when it was read last, by the monotonic clock."""

    _shown: dict[str, datetime] = field(default_factory=dict)
    """By pod, the time of its newest line."""

    def forward(self, case: Case) -> None:
        """Log what a pod has printed since the last time."""
        pod, node = case.pod["metadata"]["name"], node_of(case.pod["metadata"].get("labels") or {})
        now = time.monotonic()
        since = math.ceil(now - self._read[pod]) + _OVERLAP_SECONDS if pod in self._read else None
        lines = self.jobs.log_lines(pod, since)
        if lines is None:
            return
        self._read[pod] = now
        shown = self._shown.get(pod, _NEVER)
        for line in lines:
            moment, text = parse_log_line(line)
            if moment is not None and moment > shown:
                self._shown[pod] = moment
                logger.info("[node %d] %s", node, text)


def node_of(labelled: Mapping[str, str]) -> int:
    """Return the number of a pod in its Job."""
    return int(labelled.get(labels.NODE, 0))


@contextlib.contextmanager
def _there_already_is_fine() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != _CONFLICT or _ALREADY_EXISTS not in str(error.body):
            raise


def _is_useful(job: k8s.V1Job) -> bool:
    conditions = (job.status.conditions if job.status else None) or ()
    has_failed = any(told.type == "Failed" and told.status == "True" for told in conditions)
    return job.metadata.deletion_timestamp is None and not has_failed
