"""Why a pod did not do its work, and whether another try may: from its status and its events alone.

What the step itself said comes first, then what the cluster did to the pod. A wrong spec or setting fails at once;
whatever may pass is tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.cluster.refusals import Outcome, Refusal
from pipelines.errors import ExitCode, NoRoom, PodLost, PodRefused, PodTakenAway, SlipwayError
from pipelines.pods.manifest import CONTAINER
from pipelines.runner import StepFailed, last_words
from pipelines.spec import StepResources

Body = Mapping[str, Any]

GROWS = ("TriggeredScaleUp", "Nominated")
"""Reasons of the events by which an autoscaler says that it brings a node: the cluster's, and Karpenter."""

_LAST_EVENTS = 5
_RETRY = "it is tried again"

_OWN_LIMIT = re.compile(r"exceeds the (total )?limit|exceeded its local ephemeral storage limit", re.IGNORECASE)
_NO_SUCH_IMAGE = re.compile(
    r"not found|manifest unknown|does not exist|unauthorized|denied|forbidden|invalid reference|no match for platform",
    re.IGNORECASE,
)
_MISSING_OBJECT = re.compile(r'(persistentvolumeclaim|configmap|secret) "[^"]+" not found', re.IGNORECASE)

_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted: a pod of higher priority took its place",
    "EvictionByEvictionAPI": "evicted: its node is being drained",
    "DeletionByTaintManager": "evicted: its node got a taint that it does not tolerate",
    "DeletionByPodGC": "lost: its node is gone",
    "TerminationByKubelet": "ended by its node, which shuts down or ran short of something",
}
_ENDINGS = {
    "Preempting": "preempted: a pod of higher priority took its place",
    "NodeShutdown": "ended: its node shuts down",
    "Terminated": "ended: its node shuts down",
    "NodeLost": "lost: its node does not answer",
}


@dataclass(frozen=True)
class Trouble:
    """What went wrong, in words, and what to do about it."""

    what: str
    way_out: str = _RETRY
    kind: type[SlipwayError] = PodLost
    """Says whether another try may help, and how soon."""


@dataclass(frozen=True)
class Case:
    """What is known of a pod that did not do its work."""

    step: str
    pod: Body
    """The pod as the API returns it."""

    events: tuple[Body, ...]
    """Its events, oldest first."""

    resources: StepResources
    most_gpus: int | None = None
    """Most GPUs that any one node offers; None: not known."""

    @property
    def name(self) -> str:
        """Namespace and name of the pod."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"

    @property
    def status(self) -> Body:
        """What the cluster says of the pod."""
        found: Body = self.pod.get("status") or {}
        return found

    @property
    def container(self) -> Body:
        """State of the container: `waiting`, `running` or `terminated`."""
        for told in self.status.get("containerStatuses") or ():
            if told["name"] == CONTAINER:
                state: Body = told.get("state") or {}
                return state
        return {}

    def condition(self, kind: str) -> Body:
        """Return a condition of the pod, empty when it has none of this kind."""
        return next((told for told in self.status.get("conditions") or () if told["type"] == kind), {})

    def said(self, *reasons: str) -> str:
        """Return what events with these reasons say."""
        return "; ".join(str(event.get("message", "")) for event in self.events if event.get("reason") in reasons)


def explain(case: Case, *, gave_up: bool = False) -> SlipwayError | None:
    """Return why a pod failed; None when it did not, or is still at it.

    Args:
        case: what is known.
        gave_up: whether whoever waits for a pod that has not started waits no longer.
    """
    phase = case.status.get("phase")
    if phase == "Succeeded":
        return None
    ended = case.container.get("terminated") or {}
    if ended.get("exitCode") == ExitCode.REFUSED:
        return _step_failed(case, ended)
    trouble = None
    if phase == "Failed":
        trouble = _by_cluster(case) or _by_container(case)
        if trouble is None and ended.get("exitCode"):
            return _step_failed(case, ended)
        trouble = trouble or Trouble("failed without a word: no container of it ran")
    elif gave_up and phase == "Pending":
        trouble = _not_started(case)
    elif phase == "Unknown":
        trouble = Trouble("lost: its node does not answer", kind=PodTakenAway)
    return None if trouble is None else _told(case, trouble)


def gone(step: str, name: str, events: Iterable[Body]) -> SlipwayError:
    """Return the error of a pod that is not there any more, and left no receipt; its events outlive it."""
    told = [f"{event.get('reason')}: {event.get('message')}" for event in events]
    return PodTakenAway(
        f"{step}: pod {name} is gone: it was preempted, its node was taken away, or somebody deleted it; {_RETRY}, and "
        f"a training goes on from its newest checkpoint{_listed(told)}"
    )


def error_of(refusal: Refusal) -> SlipwayError:
    """Return the error for what the API refused a step: whether another try may help, and how soon."""
    match refusal.outcome:
        case Outcome.REFUSED:
            return PodRefused(refusal.message)
        case Outcome.FULL:
            return NoRoom(refusal.message)
        case _:
            return PodLost(refusal.message)


def explain_overdue(step: str, name: str, resources: StepResources) -> SlipwayError:
    """Return the error of a Job that took too long; its pods are gone with their status."""
    trouble = _overdue(step, resources)
    return PodRefused(f"{step}: Job {name} {trouble.what}; {trouble.way_out}")


def is_out_of_memory(case: Case) -> bool:
    """Return whether the node ended the container because it took more memory than it may."""
    return (case.container.get("terminated") or {}).get("reason") == "OOMKilled"


def _step_failed(case: Case, ended: Body) -> StepFailed:
    lines = str(ended.get("message") or "").splitlines()
    return StepFailed(case.step, int(ended["exitCode"]), f"{last_words(lines)}{_events(case)}")


def _told(case: Case, trouble: Trouble) -> SlipwayError:
    return trouble.kind(f"{case.step}: pod {case.name} {trouble.what}; {trouble.way_out}{_events(case)}")


def _events(case: Case) -> str:
    """Return the newest warnings, for whoever cannot ask the cluster once the pod is removed."""
    warnings = [event for event in case.events if event.get("type") == "Warning"]
    return _listed([f"{event.get('reason')}: {event.get('message')}" for event in warnings])


def _listed(told: list[str]) -> str:
    newest = list(dict.fromkeys(told))[-_LAST_EVENTS:]
    return "".join(f"\n    event {line}" for line in newest)


def _by_cluster(case: Case) -> Trouble | None:
    """Return what the cluster did to a pod."""
    reason, message = str(case.status.get("reason") or ""), str(case.status.get("message") or "")
    if reason == "DeadlineExceeded":
        return _overdue(case.step, case.resources)
    if reason == "Evicted":
        return _evicted(case, message)
    if reason.startswith(("OutOf", "UnexpectedAdmissionError", "NodeAffinity")):
        return Trouble(f"was turned away by its node: {message or reason}", kind=PodTakenAway)
    if reason in _ENDINGS:
        return Trouble(f"was {_ENDINGS[reason]}", kind=PodTakenAway)
    disruption = case.condition("DisruptionTarget")
    if disruption.get("status") == "True" and not is_out_of_memory(case):
        what = _DISRUPTIONS.get(str(disruption.get("reason")), "disrupted")
        return Trouble(f"was {what}", kind=PodTakenAway)
    return None


def _overdue(step: str, resources: StepResources) -> Trouble:
    return Trouble(
        f"took longer than its deadline of {resources.deadline_seconds} s",
        f"raise resources.{step}.deadline_seconds, then trigger the DAG again: finished work is found, and a training "
        "goes on from its newest checkpoint",
        kind=PodRefused,
    )


def _evicted(case: Case, message: str) -> Trouble:
    if _OWN_LIMIT.search(message):
        return Trouble(f"was evicted: {message}", f"raise resources.{case.step}.disk", kind=PodRefused)
    return Trouble(f"was evicted, for its node ran short: {message}", kind=PodTakenAway)


def _by_container(case: Case) -> Trouble | None:
    """Return what the node did to the container, if that and not the step ended it."""
    ended = case.container.get("terminated") or {}
    if is_out_of_memory(case):
        return Trouble(
            f"was ended: it took more than its {case.resources.memory} of memory (OOMKilled)",
            f"raise resources.{case.step}.memory or make batches smaller, then trigger the DAG again",
            kind=PodRefused,
        )
    if ended.get("reason") in {"StartError", "ContainerCannotRun"}:
        return Trouble(
            f"could not start its command: {ended.get('message', '')}",
            "SLIPWAY_STEP_IMAGE must name an image with python and this code",
            kind=PodRefused,
        )
    if ended.get("reason") == "ContainerStatusUnknown":
        return Trouble("lost: its node does not know what became of it", kind=PodTakenAway)
    return None


def _not_started(case: Case) -> Trouble:
    """Return why a pod did not start."""
    waiting = case.container.get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}:
        return _no_image(reason, f"{message} {case.said('Failed')}".strip())
    if reason == "CreateContainerConfigError":
        return Trouble(
            f"cannot start: {message}",
            "make it in the namespace, or change SLIPWAY_STORE_SECRET, SLIPWAY_STEP_SECRETS or "
            f"resources.{case.step}.secrets, which name it",
            kind=PodRefused,
        )
    placed = case.condition("PodScheduled")
    if placed.get("status") != "True":
        return _no_node(case, str(placed.get("message") or case.said("FailedScheduling") or "nothing says why"))
    missing = _MISSING_OBJECT.search(case.said("FailedMount"))
    if missing:
        return Trouble(f"cannot start: {missing[0]}", f"make it, or change resources.{case.step}.volumes", PodRefused)
    return Trouble(
        f"did not start within {case.resources.start_seconds} s on its node: {message or reason or 'nothing says why'}",
        f"{_RETRY}; a large image may need more of resources.{case.step}.start_seconds",
    )


def _no_image(reason: str, message: str) -> Trouble:
    trouble = Trouble(f"cannot pull its image ({reason}): {message}")
    if reason in {"InvalidImageName", "ErrImageNeverPull"} or _NO_SUCH_IMAGE.search(message):
        way_out = (
            "correct SLIPWAY_STEP_IMAGE, push or preload the image, or name a Secret in SLIPWAY_IMAGE_PULL_SECRETS"
        )
        return replace(trouble, way_out=way_out, kind=PodRefused)
    return trouble


def _no_node(case: Case, message: str) -> Trouble:
    """Return why no node took a pod."""
    field = f"resources.{case.step}"
    missing = _MISSING_OBJECT.search(message)
    if missing:
        return Trouble(f"cannot be placed: {missing[0]}", f"make it, or change {field}.volumes", kind=PodRefused)
    if lacks_gpus(case):
        return Trouble(
            f"cannot be placed: it asks for {case.resources.gpus} {case.resources.gpu_resource}, and no node has more "
            f"than {case.most_gpus}: {message}",
            f"lower {field}.gpus, add such nodes, or correct {field}.gpu_resource",
            kind=PodRefused,
        )
    return Trouble(
        f"found no node within {case.resources.schedule_seconds} s: {message}",
        f"{_RETRY}; if it never fits, change {field} (cpu, memory, gpus, node_selector, tolerations) or add nodes",
        kind=NoRoom,
    )


def lacks_gpus(case: Case) -> bool:
    """Return whether a pod asks for more GPUs than any node has, and no autoscaler brings a node for it."""
    return case.most_gpus is not None and case.most_gpus < case.resources.gpus and not case.said(*GROWS)


def most_gpus(nodes: Iterable[Body], resource: str) -> int:
    """Return the most GPUs that one of the nodes offers."""
    return max((int((node["status"].get("allocatable") or {}).get(resource, 0)) for node in nodes), default=0)
