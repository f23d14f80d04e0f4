"""What a backup says about itself: every file by digest, and what the files mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from pipelines.artifacts import ArtifactRef, canonical_json
from pipelines.spec import Frozen

ID_PATTERN = r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{16}"
STORE = "store/"
"""Beginning of the paths that go into the artifact store; all others are relative to the home."""


class SavedFile(Frozen):
    """One file of the installation; its bytes are the object that is named by `sha256`."""

    path: str
    """Where it belongs: `store/artifacts/...`, `databases/<name>.dump` or `models/<name>.yaml`."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class SavedVersion(Frozen):
    """A version whose artifacts are in the backup."""

    service: str
    number: int
    role: Literal["champion", "previous"]
    """`previous`: the champion before this one, which a rollback would bring back."""

    bento: ArtifactRef
    model: ArtifactRef
    evaluation: ArtifactRef
    spec: ArtifactRef

    @property
    def artifacts(self) -> tuple[ArtifactRef, ...]:
        """Everything that the version is made of."""
        return (self.bento, self.model, self.evaluation, self.spec)


class SavedRoute(Frozen):
    """Where a service's users go: all of them to the champion, whatever split a rollout had at that moment."""

    service: str
    port: int | None
    champion: int | None
    """Number of the version in production; None: the service has none yet."""


class SavedDatabase(Frozen):
    """A dump in PostgreSQL's custom format."""

    name: Literal["ledger", "airflow"]
    server_version: int
    """As PostgreSQL counts, such as 180004; a server of an older major version cannot take the dump."""

    schema_revision: str
    """alembic revision of the tables; empty: the database has none."""

    @property
    def path(self) -> str:
        """Path of the dump among the saved files."""
        return f"databases/{self.name}.dump"


class BackupManifest(Frozen):
    """One backup. It is written last, under a name made from its own bytes: what has no manifest does not exist."""

    format: Literal[1] = 1
    created_at: float
    """When the ledger was read, in seconds since the epoch by the ledger's clock."""

    reason: str
    files: tuple[SavedFile, ...]
    """Sorted by path."""

    versions: tuple[SavedVersion, ...]
    routes: tuple[SavedRoute, ...]
    databases: tuple[SavedDatabase, ...]

    def canonical(self) -> bytes:
        """Return the bytes whose sha256 is the backup's digest."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """sha256 of the manifest."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def id(self) -> str:
        """The backup's name: when it was made, and the beginning of its digest."""
        return f"{stamp(self.created_at)}-{self.digest[:16]}"

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def artifacts(self) -> Iterator[ArtifactRef]:
        """Yield every saved artifact once."""
        yield from dict.fromkeys(ref for version in self.versions for ref in version.artifacts)

    def file(self, path: str) -> SavedFile | None:
        """Return the file with a path, or None."""
        return next((file for file in self.files if file.path == path), None)


def stamp(moment: float) -> str:
    """Return a moment as the beginning of a backup's name; names sort by time."""
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%S.%f")
    return f"{text[:-3]}Z"
