"""What all tasks of a lifecycle share, and the ledger steps among them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from slipway.assets import event_extra
from slipway.aws import use_connection
from slipway.docs import task_documentation
from slipway.errors import translated
from slipway.triggers import POLL_SECONDS, LedgerTrigger, is_waiting

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from pipelines.settings import Settings
    from pipelines.step import Receipt, RunInfo

PATIENCE_SECONDS = 2.0
"""How long a task waits in its worker before it gives that back: less than the way through triggerer and scheduler."""


class LifecycleOperator(BaseOperator):
    """What all tasks of a lifecycle know: the model, and the name of its spec file."""

    def __init__(self, *, task_id: str, model: str = "", spec_file: str = "", **kwargs: Any) -> None:
        """Take what the DAG's default arguments say, beside Airflow's own arguments."""
        super().__init__(task_id=task_id, doc_md=task_documentation(task_id), **kwargs)
        self.model = model
        self.spec_file = spec_file

    def pre_execute(self, context: Context) -> None:
        """Find the store's credentials, also when the task goes on after it waited."""
        from pipelines.settings import Settings

        use_connection(Settings().aws_conn_id)


class LedgerStepOperator(LifecycleOperator):
    """Do a ledger step in this process: ask for it, and wait for the controller without holding a worker."""

    ui_color = "#dcfce7"

    def __init__(self, *, wait_seconds: float = 12 * 3600.0, **kwargs: Any) -> None:
        """Take how long the task waits at most; the phases of a rollout have limits of their own in the spec."""
        super().__init__(**kwargs)
        self.wait_seconds = wait_seconds

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask for the step; return its receipt when nothing is left to wait for, else defer until there is one."""
        from pipelines.settings import Settings

        started = time.time()
        with translated(context["ti"], self.retries or 0):
            asked = self._ask(context, run_info(self, context), Settings())
            if not is_waiting(asked):
                return self._conclude(context, asked, started)
            trigger = LedgerTrigger.of(asked, started, started + self.wait_seconds)
            result = settled_soon(trigger, Settings())
            if result is not None:
                return self._conclude(context, result, started)
        raise waiting_for(trigger)

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on when the trigger fired: ask the ledger again, here, where people read the log."""
        from pipelines.settings import Settings

        trigger = LedgerTrigger(**event)
        with translated(context["ti"], self.retries or 0):
            result = trigger.poll(Settings())
            if result is not None:
                return self._conclude(context, result, trigger.started)
        if time.time() >= trigger.deadline:
            waited = trigger.deadline - trigger.started
            raise AirflowFailException(f"{self.task_id}: not settled after {waited:.0f} s; see the controller's log")
        raise waiting_for(trigger)

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        """Write into the ledger what this step asks for; return its result, or what is to be waited for."""
        raise NotImplementedError

    def _conclude(self, context: Context, result: BaseModel, started: float) -> dict[str, Any]:
        from pipelines.settings import Settings
        from pipelines.step import leave_receipt
        from pipelines.store import Store

        store = Store(Settings().store_url())
        return finished(self, context, leave_receipt(store, run_info(self, context), result, started))


def settled_soon(trigger: LedgerTrigger, settings: Settings) -> BaseModel | None:
    """Return the result of a step that is settled within `PATIENCE_SECONDS`, else None."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (result := trigger.poll(settings)) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 2)
    return result


def waiting_for(trigger: LedgerTrigger) -> TaskDeferred:
    """Return what a ledger step raises to give its worker back until the trigger fires."""
    return TaskDeferred(trigger=trigger, method_name="resume")


class RolloutOperator(LedgerStepOperator):
    """Permit the transition that is named like the task, and wait until the controller has made it."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.lifecycle import RELEASED, release_inputs
        from pipelines.steps import rollout

        receipts = {step: pulled(context, step) for step in RELEASED}
        inputs = rollout.Inputs.model_validate(release_inputs(info, receipts))
        return rollout.begin(self.task_id.rpartition(".")[2], inputs, settings)


class RecordOperator(LedgerStepOperator):
    """Record the release; as a plain leaf it fails when anything before it failed."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.steps import record

        return record.run(record.Inputs(run=info), settings)


class RollbackOperator(LedgerStepOperator):
    """Take back the rollout that this run opened; skipped when there is none, or when it ended well."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.steps import rollback

        return rollback.begin(rollback.Inputs(run=info), settings)

    def _conclude(self, context: Context, result: BaseModel, started: float) -> dict[str, Any]:
        from pipelines.steps import rollback

        if isinstance(result, rollback.Result) and result.is_skipped:
            raise AirflowSkipException(result.detail)
        return super()._conclude(context, result, started)


class OfModel(Protocol):
    """An operator that knows its model."""

    model: str
    task_id: str


def run_info(operator: OfModel, context: Context, *, forced: bool = False) -> RunInfo:
    """Return which execution of the lifecycle a task belongs to."""
    from pipelines.step import RunInfo

    ti = context["ti"]
    return RunInfo(
        model=operator.model, run_id=ti.run_id, task_id=operator.task_id, try_number=ti.try_number, force=forced
    )


def pulled(context: Context, task_id: str) -> Receipt:
    """Return the receipt that an earlier task of this run left.

    Raises:
        AirflowFailException: when it left none, as one that was marked successful by hand.
    """
    from pipelines.step import Receipt

    content = context["ti"].xcom_pull(task_ids=task_id)
    if content is None:
        raise AirflowFailException(f"task {task_id} of this run left no receipt; clear it, then this task")
    return Receipt.model_validate(content)


def finished(operator: BaseOperator, context: Context, receipt: Receipt) -> dict[str, Any]:
    """Say where a step's results are, describe its assets, and return the receipt as XCom carries it: small JSON."""
    from pipelines.settings import Settings

    store_url = Settings().store_url()
    for name, value in receipt.result.items():
        match value:
            case {"kind": str(kind), "digest": str(digest)}:
                operator.log.info("%s: %s/artifacts/%s/%s", name, store_url, kind, digest)
    operator.log.info("receipt: %s/%s", store_url, receipt.run.receipt_uri)
    for outlet in operator.outlets:
        context["outlet_events"][outlet].extra = event_extra(receipt)
    content: dict[str, Any] = json.loads(receipt.encode())
    return content
