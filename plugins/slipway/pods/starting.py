"""Wait for a step's pod. One that lacks a Secret or a key that its spec names is told at once: it will never start.

The provider knows of images that cannot be pulled, and would wait for all else until the time to start is over.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import (
    AsyncPodManager,
    PodLaunchTimeoutException,
    PodManager,
)
from kubernetes.client import models as k8s

from pipelines.cluster.access import access
from pipelines.settings import Settings

_LACKS_SOMETHING = "CreateContainerConfigError"
"""Why a container waits whose Secret, ConfigMap or key of one is not there."""


class StepPodManager(PodManager):
    """The provider's, for a task that waits in its worker, and for what a worker does with a pod besides."""

    _is_starting = False

    async def await_pod_start(self, *arguments: Any, **more: Any) -> None:
        """Wait until the pod has started.

        Raises:
            PodLaunchTimeoutException: when it lacks something, or takes too long.
        """
        self._is_starting = True
        try:
            await super().await_pod_start(*arguments, **more)
        finally:
            self._is_starting = False

    def read_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        """Return the pod as it is now; one that is waited for has to lack nothing."""
        found = super().read_pod(pod)
        return _complete(found) if self._is_starting else found


class AsyncStepPodManager(AsyncPodManager):
    """The provider's, for a task that waits in the triggerer."""

    async def read_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        """Return the pod as it is now.

        Raises:
            PodLaunchTimeoutException: when it lacks something.
        """
        return _complete(await super().read_pod(pod))


class StepPodTrigger(KubernetesPodTrigger):
    """The provider's, but for where the triggerer finds the cluster and what it does not wait for."""

    @classmethod
    def of(cls, trigger: KubernetesPodTrigger) -> Self:
        """Return a trigger that waits for the same pod."""
        _, arguments = trigger.serialize()
        return cls(**arguments)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again in the triggerer."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    @cached_property
    def hook(self) -> AsyncKubernetesHook:
        """Client of the cluster, by the triggerer's own kubeconfig or account."""
        found = access(Settings())
        return AsyncKubernetesHook(
            conn_id=None,
            in_cluster=found.is_in_cluster or None,
            connection_extras={"kube_config_path": found.file},
            cluster_context=found.context,
        )

    @cached_property
    def pod_manager(self) -> AsyncStepPodManager:
        """What reads the pod."""
        return AsyncStepPodManager(async_hook=self.hook)


def _complete(pod: k8s.V1Pod) -> k8s.V1Pod:
    """Return a pod that lacks nothing.

    Raises:
        PodLaunchTimeoutException: when it does, so that whoever waits gives up; the pod's own status says what it is.
    """
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting
        if waiting is not None and waiting.reason == _LACKS_SOMETHING:
            raise PodLaunchTimeoutException(f"{pod.metadata.name} cannot start: {waiting.message}")
    return pod
