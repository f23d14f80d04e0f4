"""A person's approval within a rollout, by Airflow's own page for required actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from slipway.docs import task_documentation
from slipway.operators import run_info

if TYPE_CHECKING:
    from airflow.sdk import Context

_QUESTIONS = {
    "approve_users": "May users reach the new version?",
    "approve_promotion": "May all users reach the new version?",
}


class RolloutApproval(ApprovalOperator):
    """Ask; a rejection or silence fails the task and so rolls back, an approval is kept in the ledger with its name."""

    def __init__(self, *, task_id: str, model: str = "", spec_file: str = "", **kwargs: Any) -> None:
        """Take what the DAG's default arguments say, beside the operator's own arguments."""
        super().__init__(
            task_id=task_id,
            subject=f"{model}: {_QUESTIONS[task_id.rpartition('.')[2]]}",
            doc_md=task_documentation(task_id),
            fail_on_reject=True,
            **kwargs,
        )
        self.model = model
        self.spec_file = spec_file

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep the approval; the rollout waits for it, and for the permit of the task that follows."""
        from pipelines.settings import Settings
        from pipelines.steps import rollout

        answer = super().execute_complete(context, event)
        person = (event.get("responded_by_user") or {}).get("name", "unknown")
        rollout.approve(run_info(self, context), self.task_id.rpartition(".")[2], person, Settings())
        return answer
