"""What is to be done about a training on several nodes, from its Job and its pods alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from pipelines.errors import ExitCode, PodLost, SlipwayError
from pipelines.pods.failures import Case, explain, explain_overdue, is_out_of_memory
from pipelines.spec import StepResources

Body = Mapping[str, Any]

_OVER = frozenset({"Complete", "Failed"})


class Outlook(StrEnum):
    """Whether waiting for a Job is of use."""

    GOES_ON = "goes on"
    ENDED = "ended"
    """The Job is over or gone, or a pod needs more memory than it may have: a pod in its place would too."""

    STUCK = "stuck"
    """A pod does not start."""


def outlook(job: Body | None, cases: Sequence[Case], waited: Mapping[str, float], resources: StepResources) -> Outlook:
    """Return whether to wait on.

    Args:
        job: as the API returns it; None: gone.
        cases: what is known of each of its pods.
        waited: by pod, for how many seconds it has been seen not to run.
        resources: what the spec gives the training.
    """
    if job is None or _verdict(job) or any(is_out_of_memory(case) for case in cases):
        return Outlook.ENDED
    if any(_is_stuck(case, waited.get(case.name, 0.0), resources) for case in cases):
        return Outlook.STUCK
    return Outlook.GOES_ON


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
        return explain_overdue(step, _name(job), resources)
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


def _name(job: Body) -> str:
    return f"{job['metadata']['namespace']}/{job['metadata']['name']}"
