"""Checkpoints in the store, from which a training goes on after any kill.

<folder>/step-00000100/...              files of one checkpoint
<folder>/step-00000100/manifest.json    their sizes and sha256; written last: without it there is no checkpoint
<folder>/latest.json                    the newest complete one, replaced in one step
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, ValidationError

from pipelines.artifacts import MANIFEST, canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen
from pipelines.store import Store

logger = logging.getLogger(__name__)

LATEST = "latest.json"
_STEP = re.compile(r"step-(\d{8,})")


class CheckpointFile(Frozen):
    """One file of a checkpoint."""

    size_bytes: int
    sha256: str


class CheckpointManifest(Frozen):
    """Everything that belongs to a checkpoint."""

    step: int = Field(ge=1)
    files: dict[str, CheckpointFile]


class Latest(Frozen):
    """The pointer to the newest complete checkpoint."""

    step: int = Field(ge=1)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its files' bytes by name."""

    step: int
    """Optimizer steps that it holds."""

    files: Mapping[str, bytes]


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder

    def save(self, step: int, files: Mapping[str, bytes], *, keep: int) -> None:
        """Write a checkpoint, point to it, and remove all but the `keep` newest.

        Raises:
            StoreUnavailable: when the store cannot be written; the checkpoints there stay as they are.
        """
        folder = self._path(step)
        self._store.delete(f"{folder}/{MANIFEST}")  # a damaged one of this step is being replaced
        for name, data in files.items():
            self._store.put(f"{folder}/{name}", data)
        self._store.put(f"{folder}/{MANIFEST}", canonical_json(_describe(step, files).model_dump(mode="json")))
        self._store.put(f"{self._folder}/{LATEST}", canonical_json(Latest(step=step).model_dump(mode="json")))
        self._prune(step, keep)

    def load(self, step: int) -> Checkpoint:
        """Read and verify the checkpoint of a step.

        Raises:
            ArtifactCorrupt: when it is incomplete or a byte differs from its manifest; names the file.
        """
        folder = self._path(step)
        manifest = self._manifest(folder, step)
        files = {}
        for name, described in manifest.files.items():
            data = self._store.read(f"{folder}/{name}")
            if data is None or hashlib.sha256(data).hexdigest() != described.sha256:
                found = "is missing" if data is None else "differs from its manifest"
                raise ArtifactCorrupt(f"checkpoint {folder}: {name} {found}")
            files[name] = data
        return Checkpoint(step, files)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest sound checkpoint, or None, and what was wrong with each newer one."""
        damages: list[str] = []
        for step in self._candidates():
            try:
                return self.load(step), damages
            except ArtifactCorrupt as damage:
                damages.append(str(damage))
        return None, damages

    def _candidates(self) -> list[int]:
        """Return all steps with a checkpoint, newest first; none is newer than the pointer says."""
        steps = sorted(self._steps(), reverse=True)
        pointer = self._store.read(f"{self._folder}/{LATEST}")
        if pointer is None:
            return steps
        try:
            latest = Latest.model_validate_json(pointer)
        except ValidationError:
            logger.warning("checkpoint %s: %s is damaged; using the newest sound checkpoint", self._folder, LATEST)
            return steps
        return [latest.step, *(step for step in steps if step < latest.step)]

    def _manifest(self, folder: str, step: int) -> CheckpointManifest:
        data = self._store.read(f"{folder}/{MANIFEST}")
        if data is None:
            raise ArtifactCorrupt(f"checkpoint {folder}: {MANIFEST} is missing")
        try:
            manifest = CheckpointManifest.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactCorrupt(f"checkpoint {folder}: {MANIFEST} cannot be read") from error
        if manifest.step != step:
            raise ArtifactCorrupt(f"checkpoint {folder}: {MANIFEST} is of step {manifest.step}")
        return manifest

    def _steps(self) -> set[int]:
        found = (_STEP.search(path) for path in self._store.list(self._folder))
        return {int(match[1]) for match in found if match}

    def _prune(self, newest: int, keep: int) -> None:
        """Remove what is not among the `keep` newest, and what a killed or damaged training left beyond `newest`."""
        steps = sorted(self._steps())
        kept = [step for step in steps if step <= newest][-keep:]
        for step in set(steps) - set(kept):
            folder = self._path(step)
            self._store.delete(f"{folder}/{MANIFEST}")
            for path in self._store.list(folder):
                self._store.delete(path)

    def _path(self, step: int) -> str:
        return f"{self._folder}/step-{step:08d}"


def _describe(step: int, files: Mapping[str, bytes]) -> CheckpointManifest:
    return CheckpointManifest(
        step=step,
        files={
            name: CheckpointFile(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        },
    )
