"""When a failed try is followed by the next one, and what is kept of the reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipelines.errors import NoRoom, PodLost, PodTakenAway, SlipwayError, StoreUnavailable

pytestmark = pytest.mark.usefixtures("airflow_home")

LAST = "the next try is the last: it asks for nodes that are not taken away"


def decision(error: BaseException, try_number: int = 1, max_tries: int = 3) -> Any:
    """Return what the policy of every task says of a try that failed."""
    from slipway.dag import task_defaults

    return task_defaults("tiny", owner="me")["retry_policy"].evaluate(error, try_number, max_tries)


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        pytest.param(PodTakenAway("preempted"), timedelta(seconds=10), id="taken-away"),
        pytest.param(NoRoom("exceeded quota"), timedelta(minutes=10), id="no-room"),
        pytest.param(PodLost("failed without a word"), None, id="nothing-known"),
        pytest.param(StoreUnavailable("the store is away"), None, id="the-step's-own"),
    ],
)
def test_a_pod_is_tried_again_as_soon_as_it_may_help(error: SlipwayError, pause: timedelta | None) -> None:
    from airflow.sdk import RetryAction

    from slipway.errors import TryFailed

    found = decision(TryFailed(error))
    assert (found.action, found.retry_delay, found.reason) == (RetryAction.RETRY, pause, str(error))


def test_the_reason_says_that_the_next_try_is_the_last_and_where_it_runs() -> None:
    from slipway.errors import TryFailed

    failed = TryFailed(PodTakenAway("preempted\n    event: x" + "." * 600))
    assert decision(failed, try_number=2).reason == "preempted"
    assert decision(failed, try_number=3).reason.startswith(LAST)
    assert len(decision(TryFailed(PodLost("x" * 600))).reason) == 500


@pytest.mark.parametrize("error", [RuntimeError("unexpected"), None], ids=["unexpected", "the-last-try"])
def test_what_is_not_known_and_the_last_try_are_left_to_airflow(error: Exception | None) -> None:
    from airflow.sdk import RetryAction

    from slipway.errors import TryFailed

    found = decision(error or TryFailed(PodLost("gone")), try_number=1 if error else 4)
    assert found.action is RetryAction.DEFAULT


def test_airflow_reads_the_policy_of_a_task_and_keeps_pause_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from airflow.sdk.execution_time import task_runner

    from slipway.dag import task_defaults
    from slipway.errors import TryFailed

    monkeypatch.setattr(task_runner.stats, "incr", lambda *_, **__: None)
    known = SimpleNamespace(max_tries=3, should_retry=True)
    task = SimpleNamespace(retry_policy=task_defaults("tiny", owner="me")["retry_policy"])
    ti: Any = SimpleNamespace(
        task=task, try_number=1, _ti_context_from_server=known, _failure_metrics_emitted=True, stats_tags={}
    )
    error = TryFailed(NoRoom("exceeded quota: few"))
    told, state = task_runner._handle_current_task_failed(ti, error, task_runner.log, None)
    assert (state, told.retry_delay_seconds, told.retry_reason) == ("up_for_retry", 600.0, "exceeded quota: few")
