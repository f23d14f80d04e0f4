"""A person's approval: where it stands in the DAG, and what it leaves in the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import ledger
from tests.airflow_case import ROLLOUT, Lifecycle
from tests.unit.release.fakes import candidate
from tests.unit.release.world import World

RULES = {**ROLLOUT, "approval": {"before_users": True, "before_promotion": True, "timeout_seconds": 3600}}


@pytest.fixture
def dag(lifecycle: Lifecycle) -> Any:
    """Return the DAG of a spec that wants a person's approval twice."""
    lifecycle.write_spec(text=f"rollout: {json.dumps(RULES)}\nbackup: {{enabled: false}}\n")
    return lifecycle.parse().dags["lifecycle_tiny"]


def answer(choice: str) -> dict[str, Any]:
    """Return what Airflow's page for required actions hands to the task."""
    person = {"id": "7", "name": "ada"}
    return {
        "chosen_options": [choice],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": person,
    }


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [("approve_users", "shadow", "advance_005"), ("approve_promotion", "advance_050", "promote")],
)
def test_an_approval_stands_before_what_it_allows(dag: Any, task: str, before: str, after: str) -> None:
    approval = dag.get_task(f"rollout.{task}")
    assert f"rollout.{before}" in approval.upstream_task_ids
    assert f"rollout.{after}" in approval.downstream_task_ids
    assert approval.fail_on_reject, "a rejection fails the task, and so rolls back"
    assert approval.response_timeout.total_seconds() == 3600
    assert f"rollout.{task}" in dag.get_task("rollback").upstream_task_ids


def test_an_approval_is_kept_with_its_person(dag: Any, lifecycle: Lifecycle) -> None:
    world = World(lifecycle.settings.ledger_url())
    opened = world.open(candidate("one", service="tiny"), "manual__1")
    context = {"ti": SimpleNamespace(run_id="manual__1", try_number=1)}
    dag.get_task("rollout.approve_users").execute_complete(context, answer("Approve"))

    permitted = [event for event in ledger.events(world.url, "tiny") if event.kind == "permitted"]
    assert [(event.rollout, event.facts) for event in permitted] == [
        (opened.id, {"transition": "approve_users", "approved_by": "ada"})
    ]


def test_a_rejection_fails_the_task_and_permits_nothing(dag: Any, lifecycle: Lifecycle) -> None:
    from airflow.providers.standard.exceptions import HITLRejectException

    world = World(lifecycle.settings.ledger_url())
    world.open(candidate("one", service="tiny"), "manual__1")
    context = {"ti": SimpleNamespace(run_id="manual__1", try_number=1)}
    with pytest.raises(HITLRejectException):
        dag.get_task("rollout.approve_users").execute_complete(context, answer("Reject"))
    assert "permitted" not in world.kinds("tiny")
