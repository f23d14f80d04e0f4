"""The tasks of a rollout: one for each transition, and one for each approval that the spec asks for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import chain

from slipway.operators import RolloutOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from pipelines.spec import RolloutConfig

WAIT = timedelta(days=30)
"""Every state of a rollout has a deadline of its own in the spec; this only has to be longer than all of them."""


def rollout_tasks(config: RolloutConfig) -> list[BaseOperator]:
    """Return the tasks of a rollout, chained in their order."""
    from pipelines.release.course import approval_before, transitions

    tasks: list[BaseOperator] = []
    for transition in transitions(config):
        approval = approval_before(config, transition)
        if approval is not None:
            tasks.append(_approval(approval, config))
        tasks.append(RolloutOperator(task_id=transition, wait_seconds=WAIT.total_seconds(), execution_timeout=WAIT))
    chain(*tasks)
    return tasks


def _approval(name: str, config: RolloutConfig) -> BaseOperator:
    """Return the task that asks a person; imported only where a spec wants one, for every task parses its DAG anew."""
    from slipway.approval import RolloutApproval

    return RolloutApproval(task_id=name, response_timeout=timedelta(seconds=config.approval.timeout_seconds))
