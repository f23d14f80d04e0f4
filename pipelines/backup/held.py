"""Which version a backup holds for a service, once the backup is known to be sound."""

from __future__ import annotations

from pathlib import Path

from pipelines.backup.catalog import Catalog
from pipelines.backup.create import open_store, scratch_folder
from pipelines.backup.errors import BackupDamaged, BackupMissing
from pipelines.backup.manifest import BackupManifest, SavedVersion
from pipelines.backup.objects import Objects
from pipelines.backup.restore import verify
from pipelines.errors import ReleaseRefused
from pipelines.ledger import promoted_versions
from pipelines.settings import Settings


def version_held(settings: Settings, backup: str, service: str) -> int:
    """Return the number of the version that was in production when a backup was made; every byte of it is read.

    Raises:
        BackupMissing: when there is no such backup, or it holds no version of this service.
        BackupDamaged: when bytes of it are missing or changed.
        ReleaseRefused: when the ledger knows that number as another version, or as none that was in production.
        StoreUnavailable, LedgerUnavailable: may be tried again.
    """
    store = open_store(settings)
    manifest = Catalog(store).read(backup)
    held = _champion(manifest, service)
    with scratch_folder(settings) as scratch:
        _verify(manifest, Objects(store, scratch), scratch)
    known = promoted_versions(settings.ledger_url(), service)
    if not any((version.number, version.bento) == (held.number, held.bento) for version in known):
        raise ReleaseRefused(
            f"backup {backup} holds version {held.number} of {service} with bento {held.bento.digest[:12]}, which was "
            "never in production by this installation's ledger; nothing was done"
        )
    return held.number


def _verify(manifest: BackupManifest, objects: Objects, scratch: Path) -> None:
    try:
        verify(manifest, objects, scratch)
    except BackupDamaged as damage:
        raise BackupDamaged(f"backup {manifest.id} is damaged: {damage}; nothing was done") from damage


def _champion(manifest: BackupManifest, service: str) -> SavedVersion:
    for saved in manifest.versions:
        if saved.service == service and saved.role == "champion":
            return saved
    held = ", ".join(sorted({saved.service for saved in manifest.versions})) or "none"
    raise BackupMissing(f"backup {manifest.id} holds no version of {service!r} in production; services in it: {held}")
