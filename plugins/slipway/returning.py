"""The DAG by which a person returns a service to an earlier version: its typed form, and its one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from slipway.dag import ALL_MODELS, task_defaults
from slipway.operators import LedgerStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from pipelines.settings import Settings
    from pipelines.step import RunInfo

SERVICE, VERSION, ROLLOUT, PERSON = "service", "version", "rollout", "person"

_DOCUMENTATION = """Returns a service to a version that was in production; analysis is skipped.

* **A rollout is running**: it is aborted, and the users are with the old version at once. That is all, unless a
  version is named.
* **No rollout is running**: the named version (or the one before the present) is started, answers its golden requests,
  and takes all users; then the present one is drained and stopped.

The same from a terminal, with Airflow down: `python -m pipelines release rollback <service>`.
"""


class ReturnOperator(LedgerStepOperator):
    """Return the service that the form names to a version that was in production."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.steps import return_to

        params = context["params"]
        of_service = info.model_copy(update={"model": params[SERVICE]})
        person = (
            getattr(context["dag_run"], "triggering_user_name", None) or params.get(PERSON) or "somebody in Airflow"
        )
        inputs = return_to.Inputs(
            run=of_service, version=params.get(VERSION), rollout=params.get(ROLLOUT), person=person
        )
        return return_to.begin(inputs, settings)


def rollback_arguments(services: list[str]) -> dict[str, Any]:
    """Return the arguments of the DAG.

    Args:
        services: names that the form offers; they come from the specs, so that the form needs no database.
    """
    return {
        "dag_id": "rollback",
        "description": "Return a service to a version that was in production.",
        "doc_md": _DOCUMENTATION,
        "schedule": None,
        "catchup": False,
        "max_active_runs": 4,
        "tags": ["slipway", "release"],
        "params": {
            SERVICE: Param(None, type=["null", "string"], enum=[None, *services], title="Service"),
            VERSION: Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="Version",
                description_md="Empty: the one before the present. The page **Releases** lists what there is.",
            ),
            ROLLOUT: Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="Rollout",
                description_md="Abort this rollout and nothing else. Empty: whatever is running.",
            ),
            PERSON: Param(None, type=["null", "string"], maxLength=200, title="Ordered by"),
        },
        "default_args": task_defaults(ALL_MODELS, owner="slipway"),
    }
