"""Which objects nobody waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines.labels import RUN_ID, TRAINING, step_labels
from pipelines.pods.orphans import MIN_AGE, TaskName, orphans

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1)
TASK = TaskName("tiny", "manual__1", "train")


def thing(*, created: datetime = LONG_AGO, **metadata: Any) -> dict[str, Any]:
    """Return an object of the task."""
    about = {
        "name": "x",
        "labels": step_labels(TASK.model, TASK.run_id, TASK.task_id, 1, component=TRAINING),
        "annotations": {RUN_ID: TASK.run_id},
        "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {"kind": "Job", "metadata": {**about, **metadata}}


def test_what_an_ended_task_left_is_an_orphan() -> None:
    left = thing()
    assert orphans([left], lambda task: task != TASK, NOW) == [left]


def test_what_a_task_waits_for_stays() -> None:
    assert orphans([thing()], lambda task: task == TASK, NOW) == []


@pytest.mark.parametrize(
    "spared",
    [
        pytest.param(thing(created=NOW - MIN_AGE + timedelta(seconds=1)), id="too-young"),
        pytest.param(thing(ownerReferences=[{"kind": "Job", "name": "j"}]), id="goes-with-its-owner"),
        pytest.param(thing(deletionTimestamp="2026-11-21T11:59:00Z"), id="is-being-removed"),
    ],
)
def test_some_are_let_be(spared: dict[str, Any]) -> None:
    assert orphans([spared], lambda _task: False, NOW) == []


def test_a_task_is_asked_for_once() -> None:
    asked: list[TaskName] = []
    orphans([thing(), thing(name="y")], lambda task: bool(asked.append(task)), NOW)
    assert asked == [TASK]
