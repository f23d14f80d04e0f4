"""Back up the installation: before a rollout, so that there is something to come back to, and on schedule."""

from __future__ import annotations

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.backup.create import create_backup
from pipelines.release import offers
from pipelines.settings import Settings
from pipelines.spec import Frozen, ModelSpec
from pipelines.step import RunInfo
from pipelines.store import Store


class Inputs(Frozen):
    """Why there is a backup."""

    run: RunInfo
    spec: ArtifactRef | None = None
    """Frozen spec of the model that is about to be released; None: the backup is made on schedule."""


class Result(Frozen):
    """The backup, and what was new in it."""

    is_skipped: bool
    """The spec turned the backup before rollouts off."""

    detail: str
    backup: str = ""
    """Name of the backup."""

    digest: str = ""
    """sha256 of its manifest."""

    num_files: int = 0
    size_bytes: int = 0
    num_written: int = 0
    """Objects that were not in the backup store before."""

    written_bytes: int = 0
    num_removed: int = 0
    """Old backups that retention removed."""

    seconds: float = 0.0


def run(inputs: Inputs, settings: Settings) -> Result:
    """Make a backup of everything; on a first release, when nothing serves yet, of the databases and specs.

    Raises:
        BadInput, ArtifactMissing, ArtifactCorrupt, BackupDamaged, DumpFailed: a person must look.
        DatabaseAway, LedgerUnavailable, StoreUnavailable, LeaseHeld: may be tried again.
    """
    if inputs.spec is not None and not _is_wanted(inputs.spec, Store(settings.store_url())):
        return Result(is_skipped=True, detail=f"backup: turned off by the spec of {inputs.run.model}")
    reason = "schedule" if inputs.spec is None else f"before rollout of {inputs.run.model}, run {inputs.run.run_id}"
    created = create_backup(settings, reason)
    offers.refresh(settings)
    return Result(
        is_skipped=False,
        detail=created.detail,
        backup=created.manifest.id,
        digest=created.manifest.digest,
        num_files=len(created.manifest.files),
        size_bytes=created.manifest.size_bytes,
        num_written=created.num_written,
        written_bytes=created.written_bytes,
        num_removed=len(created.removed),
        seconds=created.seconds,
    )


def _is_wanted(spec: ArtifactRef, store: Store) -> bool:
    return ModelSpec.model_validate_json(artifacts.read_file(store, spec, "spec.json")).backup.enabled
