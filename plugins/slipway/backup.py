"""Backups as Airflow tasks: before a rollout, and on schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.dag import ALL_MODELS, task_defaults
from slipway.operators import LedgerStepOperator, pulled

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from pipelines.artifacts import ArtifactRef
    from pipelines.settings import Settings
    from pipelines.step import RunInfo


class BackupOperator(LedgerStepOperator):
    """Save the installation before this run's rollout, unless the spec turned that off."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.steps import backup

        result = backup.run(backup.Inputs(run=info, spec=self._spec(context)), settings)
        self.log.info("%s", result.detail)
        return result

    def _spec(self, context: Context) -> ArtifactRef | None:
        from pipelines.artifacts import ArtifactRef

        return ArtifactRef.model_validate(pulled(context, "freeze").result["spec"])


class ScheduledBackupOperator(BackupOperator):
    """Save the installation for no particular release."""

    def _spec(self, context: Context) -> ArtifactRef | None:
        return None


def backup_arguments() -> dict[str, Any]:
    """Return the arguments of the DAG that makes scheduled backups."""
    from pipelines.settings import Settings

    return {
        "dag_id": "backup",
        "description": "Save every model in production, both databases and the specs; remove backups nobody keeps.",
        "doc_md": _DOCUMENTATION,
        "schedule": Settings().backup_schedule or None,
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["slipway", "backup"],
        "default_args": task_defaults(ALL_MODELS, owner="slipway"),
    }


_DOCUMENTATION = """Saves what serves (and what served before it), the ledger, Airflow's database and the model specs
to `SLIPWAY_BACKUP`; only what changed is written, everything is read back. `SLIPWAY_BACKUP_SCHEDULE` sets when.

A backup is kept while a model's spec wants it (`backup.keep_last`, `backup.keep_days`; the largest values count).
Bring one back with `python -m pipelines backup restore`.
"""
