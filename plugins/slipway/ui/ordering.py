"""An order from the page becomes a run of the DAG `rollback`, triggered by the person who pressed the button."""

from __future__ import annotations

import json
import logging
from typing import Any, Self
from urllib.parse import quote

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models import DagModel, Log
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.errors import ReleaseRefused
from pipelines.release import orders
from slipway.returning import PERSON, ROLLOUT, SERVICE, VERSION
from slipway.ui.security import DAG_ID

logger = logging.getLogger(__name__)


class Order(BaseModel):
    """What a button asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str = Field(max_length=40)
    rollout: int | None = None
    """The running rollout that is to be aborted."""

    version: int | None = None
    """The version to return to, while no rollout runs."""

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.rollout is None) == (self.version is None):
            raise ValueError("name either the rollout to abort or the version to return to")
        return self


def place(url: str, order: Order, person: str) -> str:
    """Trigger the DAG and return its run's id.

    Raises:
        BadInput: when there is no such service.
        ReleaseRefused: when what the person saw is no longer so, or nobody would carry the order out.
        LedgerUnavailable: when the ledger is away.
    """
    _check_present(url, order)
    with create_session() as session:
        _check_dag(session.get(DagModel, DAG_ID))
        try:
            run = trigger_dag(
                DAG_ID,
                triggered_by=DagRunTriggeredByType.UI,
                triggering_user_name=person,
                conf=_params(order, person),
                session=session,
            )
        except (DagNotFound, DagRunAlreadyExists, ParamValidationError, ValueError) as error:
            raise ReleaseRefused(f"Airflow refuses to run the DAG {DAG_ID}: {error}; nothing was done") from error
        if run is None:
            raise ReleaseRefused(f"Airflow made no run of the DAG {DAG_ID}; nothing was done")
        run_id = str(run.run_id)
        asked = json.dumps(order.model_dump(exclude_none=True))
        session.add(Log("trigger_dag_run", owner=person, extra=asked, dag_id=DAG_ID, run_id=run_id))
    logger.info("%s ordered %s: run %s", person, asked, run_id)
    return run_id


def run_path(dag_id: str, run_id: str) -> str:
    """Return the address of a run in Airflow's UI, relative to the page."""
    return f"../dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def _check_present(url: str, order: Order) -> None:
    """Refuse an order about something that has changed since the page was drawn."""
    present = orders.running(url, order.service)
    if order.rollout is not None and (present is None or present.id != order.rollout):
        raise ReleaseRefused(f"rollout {order.rollout} is over; nothing was done")
    if order.version is not None and present is not None:
        raise ReleaseRefused(f"rollout {present.id} of {order.service} is running; abort it first; nothing was done")
    if order.version is not None:
        orders.version_to_return_to(url, order.service, order.version)


def _check_dag(dag: DagModel | None) -> None:
    by_hand = "`python -m pipelines release abort` or `rollback` does the same from a terminal; nothing was done"
    if dag is None or dag.is_stale or dag.has_import_errors:
        raise ReleaseRefused(f"Airflow does not have the DAG {DAG_ID}; {by_hand}")
    if dag.is_paused:
        raise ReleaseRefused(f"the DAG {DAG_ID} is paused, so that its runs wait; unpause it, or {by_hand}")


def _params(order: Order, person: str) -> dict[str, Any]:
    return {SERVICE: order.service, ROLLOUT: order.rollout, VERSION: order.version, PERSON: person[:200]}
