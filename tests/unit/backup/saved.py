"""A backup made without databases: real artifacts and objects, dumps that are only bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.backup.catalog import Catalog
from pipelines.backup.contents import artifact_sources, folder_sources
from pipelines.backup.manifest import BackupManifest, SavedDatabase, SavedRoute, SavedVersion
from pipelines.backup.objects import Objects
from pipelines.backup.restore import choose, restore, verify
from pipelines.store import Store

KINDS = ("bento", "model", "evaluation", "spec")


@dataclass
class RememberingDatabases:
    """Database servers that are never to be reached."""

    opened_for: list[Path] = field(default_factory=list)

    def check(self, databases: tuple[SavedDatabase, ...]) -> None: ...

    @contextlib.contextmanager
    def opened(self, home: Path) -> Iterator[Mapping[str, str]]:
        self.opened_for.append(home)
        yield {}

    def discard(self, home: Path) -> None: ...


class Saved:
    """An installation's store in a folder, and its backups in it too, or at a URL."""

    def __init__(self, folder: Path, backup: str = "") -> None:
        self.folder = folder
        self.home = folder / "new-home"
        self.main = Store(f"file://{folder / 'home' / 'store'}")
        self.store = Store(backup or f"file://{folder / 'backup'}", setting="SLIPWAY_BACKUP")
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.objects = Objects(self.store, self.scratch)
        self.catalog = Catalog(self.store)
        self.databases = RememberingDatabases()

    def version(self, number: int, size_bytes: int = 1000) -> SavedVersion:
        """Publish the artifacts of a version; its bento holds its model, as real ones do."""
        refs = {}
        weights = os.urandom(size_bytes)
        for kind in KINDS:
            files = {f"{kind}.txt": f"{kind} {number}".encode()}
            if kind in ("bento", "model"):
                files["weights.safetensors"] = weights
            refs[kind] = artifacts.publish_files(self.main, kind, files, self.scratch)
        return SavedVersion(service="docs", number=number, role="champion", **refs)

    def back_up(self, version: SavedVersion, created_at: float = 1000.0) -> BackupManifest:
        """Save a version with two dumps and a spec."""
        folder = self.folder / "made"
        for name in ("ledger.dump", "airflow.dump", "docs.yaml"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(f"{name} at {created_at}".encode() * 100)
        sources = [
            *artifact_sources(self.main, version.artifacts),
            *folder_sources(folder, "databases/", "*.dump"),
            *folder_sources(folder, "models/", "*.yaml"),
        ]
        self.written = self.objects.add_all(sources)
        manifest = BackupManifest(
            created_at=created_at,
            reason="test",
            files=tuple(sorted((source.file for source in sources), key=lambda file: file.path)),
            versions=(version,),
            routes=(SavedRoute(service="docs", port=8100, champion=version.number),),
            databases=tuple(
                SavedDatabase(name=name, server_version=180004, schema_revision="") for name in ("ledger", "airflow")
            ),
        )
        self.catalog.publish(manifest)
        return manifest

    def restore(self, backup: str = "", not_older_than: float | None = None) -> None:
        """Do what the command does."""
        manifest = choose(self.catalog, backup, not_older_than)
        verify(manifest, self.objects, self.scratch)
        restore(manifest, self.objects, self.home, self.databases)

    def nothing_was_restored(self) -> bool:
        """Say whether no byte was written and no database opened."""
        return not self.home.exists() and not self.site.exists() and self.databases.opened_for == []

    @property
    def site(self) -> Path:
        return self.home.with_name("new-home.restoring")

    def object_path(self, sha256: str) -> Path:
        """Return where an object lies."""
        return self.folder / "backup" / "objects" / sha256[:2] / sha256

    def manifest_path(self, backup: str) -> Path:
        """Return where a manifest lies."""
        return self.folder / "backup" / "backups" / f"{backup}.json"

    def artifact(self, ref: ArtifactRef) -> Path:
        """Return where an artifact of the installation lies."""
        folder = self.main.local_path(ref.uri)
        assert folder is not None
        return folder
