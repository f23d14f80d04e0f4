"""The DAG that removes what tasks left on the cluster: pods, Jobs and Services that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiException

from pipelines.labels import RUN_ID
from pipelines.pods.orphans import SELECTOR, TaskName, orphans
from pipelines.settings import Settings
from slipway.operators import LifecycleOperator
from slipway.pods.cluster import refusals_told
from slipway.pods.jobs import Jobs
from slipway.specs import lifecycle_id

if TYPE_CHECKING:
    from airflow.sdk import Context

_OVER = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
"""States of tasks that wait for nothing."""

_NOT_FOUND = 404


class ReaperOperator(LifecycleOperator):
    """Remove every pod, Job and Service of a work step whose task is over or gone."""

    ui_color = "#fee2e2"

    def execute(self, context: Context) -> list[str]:
        """Return the names of what was removed."""
        from slipway.errors import translated

        settings = Settings()
        jobs = Jobs(settings)
        with translated(context["ti"], self.retries or 0), refusals_told("remove orphans", settings):
            found = orphans(_things(jobs, settings.kubernetes_namespace), self._is_awaited(context), datetime.now(UTC))
            return [self._removed(thing, jobs, settings.kubernetes_namespace) for thing in found]

    def _removed(self, thing: Mapping[str, Any], jobs: Jobs, namespace: str) -> str:
        name, kind = thing["metadata"]["name"], thing["kind"]
        run_id = (thing["metadata"].get("annotations") or {}).get(RUN_ID, "")
        try:
            _deletions(jobs)[kind](name, namespace)
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise
        self.log.info("removed %s %s: the task of run %s that made it does not wait for it", kind, name, run_id)
        return f"{kind} {name}"

    def _is_awaited(self, context: Context) -> Callable[[TaskName], bool]:
        """Return what asks Airflow whether a task may still take up what it made."""
        states = context["ti"].get_task_states

        def is_awaited(task: TaskName) -> bool:
            if not (task.run_id and task.model):
                return False
            found = states(dag_id=lifecycle_id(task.model), task_ids=[task.task_id], run_ids=[task.run_id])
            state = found.get(task.run_id, {}).get(task.task_id, "removed")
            return state not in _OVER

        return is_awaited


def reaper_arguments() -> dict[str, Any]:
    """Return the arguments of the DAG."""
    from slipway.dag import ALL_MODELS, task_defaults

    return {
        "dag_id": "reaper",
        "description": "Remove pods, Jobs and Services on the cluster that no task waits for.",
        "doc_md": _DOCUMENTATION,
        "schedule": "*/10 * * * *",
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["slipway", "kubernetes"],
        "default_args": task_defaults(ALL_MODELS, owner="slipway"),
    }


def _things(jobs: Jobs, namespace: str) -> list[dict[str, Any]]:
    """Return all that work steps have on the cluster; a Job comes before its pods."""
    listed = {
        "Job": jobs.batch.list_namespaced_job,
        "Pod": jobs.core.list_namespaced_pod,
        "Service": jobs.core.list_namespaced_service,
    }
    plain = jobs.core.api_client.sanitize_for_serialization
    return [
        {**plain(thing), "kind": kind}  # items of a list do not say their kind
        for kind, ask in listed.items()
        for thing in ask(namespace, label_selector=SELECTOR).items
    ]


def _deletions(jobs: Jobs) -> dict[str, Callable[[str, str], object]]:
    return {
        "Job": lambda name, namespace: jobs.batch.delete_namespaced_job(
            name, namespace, propagation_policy="Background"
        ),
        "Pod": jobs.core.delete_namespaced_pod,
        "Service": jobs.core.delete_namespaced_service,
    }


_DOCUMENTATION = """A task removes what it made on the cluster. It cannot when its worker or the triggerer died at the
wrong moment, the cluster did not answer, or its run was deleted. This DAG finds what is left by its labels
(`app.kubernetes.io/managed-by=slipway`), asks Airflow for the task that made it, and removes it when that is over.

What is younger than ten minutes, and what a task may still take up, stays. Copies of models are the controller's.
"""
