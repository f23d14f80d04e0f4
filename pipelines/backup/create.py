"""Make a backup: read the ledger at one moment, save what it names, write the manifest last."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines import lease
from pipelines.backup.catalog import Catalog
from pipelines.backup.contents import MODELS, artifact_sources, folder_sources, saved_routes, saved_versions
from pipelines.backup.dumps import dump
from pipelines.backup.errors import BackupDamaged
from pipelines.backup.manifest import BackupManifest
from pipelines.backup.objects import Objects, Source
from pipelines.backup.retention import Retention, prune
from pipelines.errors import BadInput, SpecError
from pipelines.ledger import backups as ledger_backups
from pipelines.settings import Settings
from pipelines.spec import BackupConfig, load_spec
from pipelines.store import Store

logger = logging.getLogger(__name__)

LEASE = "backup"
DATABASES = "databases/"


@dataclass(frozen=True)
class Created:
    """A backup that exists, and what making it took."""

    manifest: BackupManifest
    num_written: int
    """Objects that were new."""

    written_bytes: int
    removed: tuple[str, ...]
    """Backups that retention removed."""

    seconds: float

    @property
    def detail(self) -> str:
        """The backup in one sentence."""
        versions = [f"{saved.service} v{saved.number} ({saved.role})" for saved in self.manifest.versions]
        num_specs = sum(file.path.startswith(MODELS) for file in self.manifest.files)
        what = ", ".join(versions) or "no version, for none is in production"
        return (
            f"backup {self.manifest.id}: {what}; ledger, Airflow's database, {num_specs} model specs; "
            f"{len(self.manifest.files)} files of {self.manifest.size_bytes / 1e6:.1f} MB, "
            f"{self.num_written} objects of {self.written_bytes / 1e6:.1f} MB new, {self.seconds:.1f} s"
        )


def create_backup(settings: Settings, reason: str) -> Created:
    """Save the installation and remove the backups that no model's spec wants kept.

    Of several processes one works at a time. Whatever ends this one early leaves no backup, only objects without one.

    Raises:
        BadInput: when the backups would lie inside the home, or a database is no PostgreSQL.
        ArtifactMissing, ArtifactCorrupt: when an artifact of a champion, or of the one before, is not sound.
        BackupDamaged: when the backup store does not hold what was written to it.
        DumpFailed, DatabaseAway: when a database cannot be dumped.
        StoreRefused: when the backup store cannot be used as it is set up; nothing is saved.
        StoreUnavailable, LedgerUnavailable, LeaseHeld: these may be tried again.
    """
    started = time.monotonic()
    store = open_store(settings)
    _make_private(store)
    store.check()
    with lease.hold(store, LEASE), scratch_folder(settings) as scratch:
        objects, catalog = Objects(store, scratch), Catalog(store)
        manifest, sources = _collect(settings, reason, scratch)
        written = objects.add_all(sources)
        missing = {file.sha256 for file in manifest.files} - objects.names()
        if missing:
            raise BackupDamaged(f"backup: {len(missing)} objects were removed while it was made; make it again")
        catalog.publish(manifest)
        removed = prune(catalog, objects, wanted_retention(settings), manifest.created_at)
    created = Created(
        manifest=manifest,
        num_written=len(written),
        written_bytes=sum(file.size_bytes for file in written),
        removed=tuple(removed),
        seconds=round(time.monotonic() - started, 3),
    )
    _record(settings.ledger_url(), created)
    return created


def open_store(settings: Settings) -> Store:
    """Return the backup store.

    Raises:
        BadInput: when it lies inside the home.
    """
    store = Store(settings.backup_url(), setting="SLIPWAY_BACKUP")
    local = store.local_path("backups")
    if local is not None:
        root, home = local.parent.resolve(), settings.resolved_home().resolve()
        if root.is_relative_to(home):
            raise BadInput(f"SLIPWAY_BACKUP: {root} lies inside SLIPWAY_HOME ({home}) and would be lost with it")
    return store


def _make_private(store: Store) -> None:
    """Make a local store's folder for its owner only: dumps hold what databases hold."""
    local = store.local_path("backups")
    if local is not None:
        local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def scratch_folder(settings: Settings) -> Iterator[Path]:
    """Give a private folder for a block."""
    folder = settings.resolved_home() / "scratch" / f"backup-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wanted_retention(settings: Settings) -> Retention:
    """Return what all model specs together want kept; a broken spec has no say."""
    configs: list[BackupConfig] = []
    for path in sorted(settings.models_dir.glob("*.yaml")):
        try:
            configs.append(load_spec(path).backup)
        except SpecError as problem:
            logger.warning("retention: %s", problem)
    return Retention.of(configs)


def _collect(settings: Settings, reason: str, scratch: Path) -> tuple[BackupManifest, list[Source]]:
    """Dump the databases and list everything that is to be saved, as the ledger was at one moment."""
    dumps = scratch / "dumps"
    dumps.mkdir(mode=0o700)
    with ledger_backups.view(settings.ledger_url()) as view:
        ledger = dump("ledger", settings.ledger_url(), dumps / "ledger.dump", view.snapshot_id)
    airflow = dump("airflow", settings.airflow_db_url(), dumps / "airflow.dump")
    versions = saved_versions(view.services)
    refs = dict.fromkeys(ref for version in versions for ref in version.artifacts)
    sources = [
        *artifact_sources(Store(settings.store_url()), refs),
        *folder_sources(dumps, DATABASES, "*.dump"),
        *folder_sources(settings.models_dir.resolve(), MODELS, "*.yaml"),
    ]
    manifest = BackupManifest(
        created_at=view.now,
        reason=reason,
        files=tuple(sorted((source.file for source in sources), key=lambda file: file.path)),
        versions=versions,
        routes=saved_routes(view.services),
        databases=(ledger, airflow),
    )
    return manifest, sources


def _record(url: str, created: Created) -> None:
    manifest = created.manifest
    record = ledger_backups.BackupRecord(
        id=manifest.id,
        digest=manifest.digest,
        created_at=manifest.created_at,
        reason=manifest.reason,
        num_files=len(manifest.files),
        size_bytes=manifest.size_bytes,
        written_bytes=created.written_bytes,
    )
    champions = {route.service: route.champion for route in manifest.routes if route.champion is not None}
    ledger_backups.record_backup(url, record, champions)
    ledger_backups.forget_backups(url, created.removed)
