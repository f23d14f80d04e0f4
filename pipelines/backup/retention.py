"""Which backups are kept, and the removal of the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.backup.catalog import Catalog
from pipelines.backup.errors import BackupDamaged
from pipelines.backup.manifest import BackupManifest
from pipelines.backup.objects import Objects
from pipelines.spec import BackupConfig

logger = logging.getLogger(__name__)

DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Retention:
    """A backup is kept while it is among the newest `keep_last`, or younger than `keep_days`."""

    keep_last: int
    keep_days: int

    @classmethod
    def of(cls, configs: Iterable[BackupConfig]) -> Retention:
        """Return what satisfies every model: a backup holds them all, so the most careful one decides."""
        known = list(configs) or [BackupConfig()]
        return cls(max(config.keep_last for config in known), max(config.keep_days for config in known))


def outdated(backups: Iterable[BackupManifest], retention: Retention, now: float) -> list[BackupManifest]:
    """Return the backups that are not kept, oldest first; the newest is always kept."""
    by_age = sorted(backups, key=lambda backup: backup.created_at)
    candidates = by_age[: max(0, len(by_age) - max(1, retention.keep_last))]
    return [backup for backup in candidates if backup.created_at < now - retention.keep_days * DAY_SECONDS]


def prune(catalog: Catalog, objects: Objects, retention: Retention, now: float) -> list[str]:
    """Remove what retention does not keep and return its names; the caller holds the store's lease.

    A manifest goes before the objects that only it names, so that a death in between leaves unnamed objects, which the
    next call removes, and never a backup without its objects. While one manifest cannot be read nothing is removed:
    nobody knows which objects it needs.
    """
    try:
        backups = [catalog.read(backup) for backup in catalog.ids()]
    except BackupDamaged as damage:
        logger.warning("%s; old backups stay until it is removed by hand", damage)
        return []
    removed = outdated(backups, retention, now)
    for backup in removed:
        catalog.remove(backup.id)
    needed = {file.sha256 for backup in backups if backup not in removed for file in backup.files}
    for sha256 in objects.names() - needed:
        objects.remove(sha256)
    objects.remove_fragments()
    return [backup.id for backup in removed]
