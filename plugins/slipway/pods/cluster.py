"""What is asked of the Kubernetes API besides what the provider asks, as plain data; and its refusals in our words."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import KubernetesApiException
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from pipelines import labels
from pipelines.cluster.access import unusable
from pipelines.cluster.refusals import Asked
from pipelines.cluster.refusals import explain as explain_refusal
from pipelines.errors import SlipwayError
from pipelines.pods.failures import GROWS, Case, error_of, explain, lacks_gpus, most_gpus
from pipelines.settings import Settings
from pipelines.spec import StepResources

logger = logging.getLogger(__name__)

NODE_SECONDS = 30.0
"""How long an autoscaler may take to say that it brings a node."""

LOOK_SECONDS = 2.0
"""Between two looks for such a word."""


@contextlib.contextmanager
def refusals_told(what: str, settings: Settings) -> Iterator[None]:
    """Tell what the API refuses, or that it does not answer, in our words.

    Args:
        what: verb and object of what is asked.
        settings: of this installation.

    Raises:
        SlipwayError: with object, verb and way out.
    """
    try:
        yield
    except (ApiException, HTTPError, KubernetesApiException) as error:
        raise refusal(error, what, settings) from None
    except ConfigException as error:
        raise unusable(settings, str(error)) from None


def refusal(error: Exception, what: str, settings: Settings) -> SlipwayError:
    """Return what an error of the client means, with verb and object, and whether another try may help."""
    status, body = 0, str(error)
    if isinstance(error, ApiException):
        status, body = error.status or 0, str(error.body or error.reason or "")
    return error_of(explain_refusal(status, body, Asked(what), settings))


def useful_pod(client: CoreV1Api, found_by: dict[str, str], namespace: str) -> k8s.V1Pod | None:
    """Return the newest pod with the labels that is neither failed nor about to go, None when there is none."""
    selector = labels.selector(found_by)
    pods: Iterable[k8s.V1Pod] = client.list_namespaced_pod(namespace, label_selector=selector).items
    useful = [pod for pod in pods if pod.metadata.deletion_timestamp is None and pod.status.phase != "Failed"]
    return max(useful, key=lambda pod: pod.metadata.creation_timestamp, default=None)


def case_of(client: CoreV1Api, pod: k8s.V1Pod, step: str, resources: StepResources) -> Case | None:
    """Return what the cluster knows of a pod now; None when it is gone."""
    name, namespace = pod.metadata.name, pod.metadata.namespace
    try:
        found = client.read_namespaced_pod(name, namespace)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    plain: dict[str, Any] = client.api_client.sanitize_for_serialization(found)
    events = events_of(client, name, namespace)
    gpus = _most_gpus(client, resources) if resources.gpus and plain["status"].get("phase") == "Pending" else None
    return Case(step, plain, events, resources, gpus)


def check_gpus(client: CoreV1Api, look: Callable[[], Sequence[Case]], resources: StepResources) -> None:
    """Wait until the GPUs that pods ask for are on a node, or may come to be on one; at once, as a rule.

    Done where the task begins: the triggerer may not list nodes.

    Args:
        client: of the cluster.
        look: returns what is known of the pods.
        resources: what the spec gives the step.

    Raises:
        PodRefused: when no node has so many, and no autoscaler is at work.
    """
    deadline = time.monotonic() + min(NODE_SECONDS, resources.schedule_seconds)
    while resources.gpus:
        cases = look()
        lacking = [case for case in cases if lacks_gpus(case)]
        if (cases and not lacking) or (lacking and _grows(client, lacking[0].pod["metadata"]["namespace"])):
            return
        if time.monotonic() >= deadline:
            problem = explain(lacking[0], gave_up=True) if lacking else None
            if problem:
                raise problem
            return
        time.sleep(LOOK_SECONDS)


def _grows(client: CoreV1Api, namespace: str) -> bool:
    """Return whether an autoscaler has brought nodes for anybody of late: it says nothing of a pod that fits on them.

    Who may not read events cannot know.
    """
    try:
        return any(client.list_namespaced_event(namespace, field_selector=f"reason={word}").items for word in GROWS)
    except (ApiException, HTTPError):
        return True


def events_of(client: CoreV1Api, name: str, namespace: str) -> tuple[dict[str, Any], ...]:
    """Return the events of a pod, oldest first; whoever may not read them still learns the rest."""
    try:
        listed = client.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}")
    except (ApiException, HTTPError) as error:
        logger.warning("events of pod %s/%s cannot be read: %s", namespace, name, error)
        return ()
    events: list[dict[str, Any]] = client.api_client.sanitize_for_serialization(listed.items)
    return tuple(sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")))


def _most_gpus(client: CoreV1Api, resources: StepResources) -> int | None:
    """Return the most GPUs that one node offers; None for whoever may not list nodes."""
    try:
        nodes = client.list_node()
    except (ApiException, HTTPError):
        return None
    return most_gpus(client.api_client.sanitize_for_serialization(nodes.items), resources.gpu_resource)
