"""What a backup holds: files of the champions' artifacts, the dumps, the model specs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines import artifacts
from pipelines.artifacts import MANIFEST, ArtifactRef, Manifest, file_sha256
from pipelines.backup.errors import BackupDamaged
from pipelines.backup.manifest import STORE, BackupManifest, SavedFile, SavedRoute, SavedVersion
from pipelines.backup.objects import Source
from pipelines.ledger.backups import ServiceNow
from pipelines.ledger.records import Version
from pipelines.store import Store

MODELS = "models/"


def saved_versions(services: Iterable[ServiceNow]) -> tuple[SavedVersion, ...]:
    """Return every champion, and the champion before it."""
    return tuple(
        SavedVersion(
            service=service.name,
            number=version.number,
            role=role,
            bento=version.bento,
            model=version.model,
            evaluation=version.evaluation,
            spec=version.spec,
        )
        for service in services
        for role, version in _roles(service)
    )


def saved_routes(services: Iterable[ServiceNow]) -> tuple[SavedRoute, ...]:
    """Return where users go when no rollout is under way."""
    return tuple(
        SavedRoute(
            service=service.name,
            port=service.port,
            champion=None if service.champion is None else service.champion.number,
        )
        for service in services
    )


def artifact_sources(store: Store, refs: Iterable[ArtifactRef]) -> Iterator[Source]:
    """Yield every file of artifacts in the store, their manifests too.

    Raises:
        ArtifactMissing: when an artifact does not exist: what serves could not be brought back.
        ArtifactCorrupt: when its manifest is damaged.
    """
    for ref in refs:
        manifest = artifacts.read_manifest(store, ref)
        for path, size, sha256 in _files(ref, manifest):
            yield Source(SavedFile(path=STORE + path, size_bytes=size, sha256=sha256), store, path)


def folder_sources(folder: Path, prefix: str, pattern: str) -> Iterator[Source]:
    """Yield local files; a folder that does not exist has none."""
    store = Store(f"file://{folder}")
    for path in sorted(folder.glob(pattern)):
        file = SavedFile(path=prefix + path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path))
        yield Source(file, store, path.name)


def check_complete(manifest: BackupManifest, read_artifact_manifest: dict[ArtifactRef, bytes]) -> None:
    """See that a backup's list of files holds all of every artifact and every dump that it speaks of.

    Args:
        manifest: of the backup.
        read_artifact_manifest: the saved bytes of each artifact's own manifest.

    Raises:
        BackupDamaged: names what is not listed, or listed with other bytes than the artifact's own manifest says.
    """
    listed = {file.path: (file.size_bytes, file.sha256) for file in manifest.files}
    expected: dict[str, tuple[int, str] | None] = {database.path: None for database in manifest.databases}
    for ref, data in read_artifact_manifest.items():
        for path, size, sha256 in _files(ref, Manifest.model_validate_json(data)):
            expected[STORE + path] = (size, sha256)
    for path, content in expected.items():
        if path not in listed or (content is not None and listed[path] != content):
            raise BackupDamaged(f"backup {manifest.id}: {path} is not listed as it should be; take another backup")


def _roles(service: ServiceNow) -> Iterator[tuple[str, Version]]:
    if service.champion is not None:
        yield "champion", service.champion
    if service.previous is not None:
        yield "previous", service.previous


def _files(ref: ArtifactRef, manifest: Manifest) -> Iterator[tuple[str, int, str]]:
    """Yield path in the store, size and sha256 of an artifact's files; its manifest's sha256 is its digest."""
    for file in manifest.files:
        yield f"{ref.uri}/{file.path}", file.size_bytes, file.sha256
    yield f"{ref.uri}/{MANIFEST}", len(manifest.canonical()), ref.digest
