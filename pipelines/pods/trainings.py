"""What is to be done about a training on several nodes, from its Job and its pods alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from pipelines.cluster.refusals import Asked
from pipelines.cluster.refusals import explain as explain_refusal
from pipelines.errors import ExitCode, PodLost, SlipwayError
from pipelines.pods.failures import Case, error_of, explain, explain_overdue, is_out_of_memory
from pipelines.settings import Settings
from pipelines.spec import StepResources, TrainingResources

Body = Mapping[str, Any]

_OVER = frozenset({"Complete", "Failed"})
_FORBIDDEN = 403


class Outlook(StrEnum):
    """Whether waiting for a Job is of use."""

    GOES_ON = "goes on"
    ENDED = "ended"
    """The Job is over or gone, or a pod needs more memory than it may have: a pod in its place would too."""

    STUCK = "stuck"
    """A pod does not start, or cannot be made."""


def outlook(job: Body | None, cases: Sequence[Case], waited: Mapping[str, float], resources: StepResources) -> Outlook:
    """Return whether to wait on.

    Args:
        job: as the API returns it; None: gone.
        cases: what is known of each of its pods.
        waited: by pod, for how many seconds it has been seen not to run; by Job, for how many it lacked pods.
        resources: what the spec gives the training.
    """
    if job is None or _verdict(job) or any(is_out_of_memory(case) for case in cases):
        return Outlook.ENDED
    if waited.get(name_of(job), 0.0) >= resources.schedule_seconds:
        return Outlook.STUCK
    if any(_is_stuck(case, waited.get(case.name, 0.0), resources) for case in cases):
        return Outlook.STUCK
    return Outlook.GOES_ON


def lacks_pods(job: Body | None, cases: Sequence[Case], resources: TrainingResources) -> bool:
    """Return whether a Job that may run has fewer pods than it needs: a quota or a policy may refuse them."""
    if job is None or (job.get("spec") or {}).get("suspend"):
        return False
    alive = [case for case in cases if case.status.get("phase") != "Failed"]
    return len(alive) < resources.nodes


def name_of(job: Body) -> str:
    """Return namespace and name of a Job."""
    return f"{job['metadata']['namespace']}/{job['metadata']['name']}"


def why_podless(events: Iterable[Body]) -> str:
    """Return what the newest refusal of a Job's pods says, from the Job's own events; empty: none was refused."""
    return next((str(event["message"]) for event in reversed([*events]) if event.get("reason") == "FailedCreate"), "")


def explain_podless(step: str, job: Body, why: str, settings: Settings) -> SlipwayError:
    """Return the error for a Job whose pods are refused."""
    asked = Asked(f"{step}: make the pods of job {name_of(job)}")
    return error_of(explain_refusal(_FORBIDDEN, why, asked, settings))


def explain_job(
    step: str, job: Body | None, cases: Sequence[Case], resources: StepResources, *, gave_up: bool
) -> SlipwayError:
    """Return why a training on several nodes left no receipt: the reason that speaks against a retry, if there is one.

    Args:
        step: that was to be done.
        job: as the API returns it; None: gone.
        cases: what is known of each of its pods.
        resources: what the spec gives the training.
        gave_up: whether pods that have not started are waited for no longer.
    """
    verdict = {} if job is None else _verdict(job)
    if job is not None and verdict.get("reason") == "DeadlineExceeded":
        return explain_overdue(step, name_of(job), resources)
    problems = [problem for case in cases if (problem := explain(case, gave_up=gave_up))]
    if problems:
        return min(problems, key=lambda problem: problem.exit_code is not ExitCode.REFUSED)
    what = "is gone: somebody deleted it" if job is None else f"ended: {verdict.get('message', 'nothing says why')}"
    return PodLost(f"{step}: its Job {what}; it is tried again, and goes on from its newest checkpoint")


def _verdict(job: Body) -> Body:
    """Return the condition with which a Job is over; empty while it is not."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((told for told in conditions if told["type"] in _OVER and told["status"] == "True"), {})


def _is_stuck(case: Case, seconds: float, resources: StepResources) -> bool:
    if case.status.get("phase") != "Pending":
        return False
    is_placed = case.condition("PodScheduled").get("status") == "True"
    if is_placed:
        problem = explain(case, gave_up=True)
        return seconds >= resources.start_seconds or (problem is not None and not problem.retryable)
    return seconds >= resources.schedule_seconds
