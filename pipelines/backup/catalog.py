"""The list of backups: one manifest each, named after its own bytes, and a note of the newest."""

from __future__ import annotations

import hashlib
import re

from pipelines.backup.errors import BackupDamaged, BackupMissing
from pipelines.backup.manifest import ID_PATTERN, BackupManifest
from pipelines.store import Store

FOLDER = "backups"
NEWEST = "newest"
"""Object with the name of the newest backup: its manifest cannot be lost, or taken away, without a trace."""


class Catalog:
    """The manifests of a backup store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ids(self) -> list[str]:
        """Return the names of all backups, oldest first; says nothing about their bytes."""
        names = [path.removeprefix(f"{FOLDER}/").removesuffix(".json") for path in self._store.list(FOLDER)]
        return sorted(name for name in names if re.fullmatch(ID_PATTERN, name))

    def publish(self, manifest: BackupManifest) -> None:
        """Add a backup whose objects are all there. From here on it exists."""
        self._store.create(_path(manifest.id), manifest.canonical())
        self._store.put(NEWEST, f"{manifest.id}\n".encode())

    def read(self, backup: str) -> BackupManifest:
        """Return a backup's manifest, verified against its name.

        Raises:
            BackupMissing: when there is none.
            BackupDamaged: when its bytes are not those that the name was made from.
        """
        data = self._store.read(_path(backup)) if re.fullmatch(ID_PATTERN, backup) else None
        if data is None:
            known = ", ".join(self.ids()[-5:]) or "none"
            raise BackupMissing(f"backup: there is no {backup!r} in {self._store.url}; newest backups: {known}")
        if hashlib.sha256(data).hexdigest()[:16] != backup.rpartition("-")[2]:
            raise BackupDamaged(
                f"backup {backup}: the manifest has other bytes than its name says; take another backup"
            )
        manifest = BackupManifest.model_validate_json(data)
        if manifest.id != backup:
            raise BackupDamaged(f"backup {backup}: the manifest is that of {manifest.id}; take that one by its name")
        return manifest

    def newest(self) -> str:
        """Return the name of the newest backup.

        Raises:
            BackupMissing: when there is no backup.
            BackupDamaged: when the newest was taken away, so that an older one would pass for it.
        """
        ids, note = self.ids(), self._store.read(NEWEST)
        if not ids and note is None:
            raise BackupMissing(f"backup: there is none in {self._store.url}; check SLIPWAY_BACKUP")
        if note is None or not re.fullmatch(f"{ID_PATTERN}\n", text := note.decode(errors="replace")):
            raise BackupDamaged(f"backup: the note of the newest one is damaged; name one: {', '.join(ids[-5:])}")
        noted = text.strip()
        if noted not in ids:
            raise BackupDamaged(f"backup: the newest one, {noted}, is missing; name another: {', '.join(ids[-5:])}")
        return ids[-1]  # newer than the note when a backup died after its manifest, before the note

    def remove(self, backup: str) -> None:
        """Remove a backup's manifest; its objects are then nobody's."""
        self._store.delete(_path(backup))


def _path(backup: str) -> str:
    return f"{FOLDER}/{backup}.json"
