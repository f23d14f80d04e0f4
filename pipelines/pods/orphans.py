"""Which objects on the cluster nobody waits for any more.

A task removes what it made. It cannot when its worker, the triggerer or the cluster's API died at the wrong moment, or
when somebody deleted its run; then what it made would take room until its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from pipelines import labels

Body = Mapping[str, Any]

MIN_AGE = timedelta(minutes=10)
"""Younger objects are left alone: their task may just be beginning, and what is said of it may be late."""

SELECTOR = f"{labels.MANAGED_BY}={labels.SLIPWAY},{labels.COMPONENT} in ({labels.STEP},{labels.TRAINING})"
"""What work steps are made of; copies of models are the controller's."""


@dataclass(frozen=True)
class TaskName:
    """A task of a lifecycle, as the objects that it made name it."""

    model: str
    run_id: str
    task_id: str

    @classmethod
    def of(cls, thing: Body) -> Self:
        """Return the task that made an object; parts are empty where the object does not say."""
        metadata = thing["metadata"]
        labelled, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        return cls(labelled.get(labels.MODEL, ""), notes.get(labels.RUN_ID, ""), labelled.get(labels.TASK, ""))


def orphans(things: Iterable[Body], is_awaited: Callable[[TaskName], bool], now: datetime) -> list[Body]:
    """Return the objects whose task does not wait for them.

    What another object owns goes with its owner, and what is being removed is let go.

    Args:
        things: pods, Jobs and Services of work steps, as the API returns them.
        is_awaited: whether a task may still take up what it made.
        now: the cluster's time, as good as it is known.
    """
    old = [thing for thing in things if _is_on_its_own(thing) and now - _created(thing) >= MIN_AGE]
    awaited = {name: is_awaited(name) for name in {TaskName.of(thing) for thing in old}}
    return [thing for thing in old if not awaited[TaskName.of(thing)]]


def _is_on_its_own(thing: Body) -> bool:
    metadata = thing["metadata"]
    return not metadata.get("ownerReferences") and not metadata.get("deletionTimestamp")


def _created(thing: Body) -> datetime:
    return datetime.fromisoformat(thing["metadata"]["creationTimestamp"])
