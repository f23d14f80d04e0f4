"""Waiting for the ledger: until it is settled, through its absence, and never for ever."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pipelines.errors import LedgerUnavailable, RolledBack
from pipelines.settings import Settings
from pipelines.steps import rollout
from tests.airflow_case import Lifecycle


def waiting(seconds: float) -> Any:
    from slipway.triggers import LedgerTrigger

    note = rollout.Waiting(rollout=1, transition="stage", since=0.0)
    return LedgerTrigger.of(note, time.time(), time.time() + seconds)


def fired(trigger: Any) -> Any:
    """Return the payload of a trigger that went through Airflow's serialisation."""
    from airflow.sdk.module_loading import import_string

    path, arguments = trigger.serialize()
    return asyncio.run(anext(import_string(path)(**arguments).run())).payload


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([None, "result"], id="settled"),
        pytest.param([LedgerUnavailable("away"), "result"], id="the-ledger-came-back"),
        pytest.param([RolledBack("worse")], id="ended-badly"),
        pytest.param([ValueError("a bug")], id="unexpected"),
    ],
)
def test_a_trigger_fires_when_there_is_something_to_tell(
    lifecycle: Lifecycle, answers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway import triggers

    left = list(answers)

    def poll(note: rollout.Waiting, _: object) -> Any:
        assert note.rollout == 1
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(rollout, "poll", poll)
    monkeypatch.setattr(triggers, "POLL_SECONDS", 0.0)
    trigger = waiting(60)
    assert fired(trigger) == trigger.serialize()[1]
    assert left == []


def test_a_trigger_gives_up_at_its_own_deadline_and_the_task_fails(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from slipway import triggers
    from slipway.operators import RolloutOperator

    monkeypatch.setattr(rollout, "poll", lambda *_: None)
    monkeypatch.setattr(triggers, "POLL_SECONDS", 0.01)
    event = fired(waiting(0.05))
    with pytest.raises(AirflowFailException, match=r"^stage: not settled after 0 s"):
        RolloutOperator(task_id="stage", model="tiny").resume({"ti": None}, event)


@pytest.mark.parametrize(
    ("unsettled", "is_deferred"), [pytest.param(2, False, id="soon"), pytest.param(99, True, id="later")]
)
def test_a_task_waits_a_moment_in_its_worker_before_it_gives_that_back(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, unsettled: int, is_deferred: bool
) -> None:
    from slipway import operators

    answers = iter([None] * unsettled + ["result"])
    monkeypatch.setattr(rollout, "poll", lambda *_: next(answers))
    monkeypatch.setattr(operators, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(operators, "PATIENCE_SECONDS", 0.3)
    assert (operators.settled_soon(waiting(60), Settings()) is None) is is_deferred
