"""The checkpoints of one training in the store.

<folder>/step-00000100/shard-00000.safetensors  what rank 0 wrote; one file per rank
<folder>/step-00000100/metrics.jsonl            readings so far
<folder>/step-00000100/manifest.json            sizes, digests, tensors; written last: without it there is no checkpoint
<folder>/latest.json                            the newest complete one, replaced in one step
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

from pipelines import verified
from pipelines.artifacts import MANIFEST
from pipelines.errors import ArtifactCorrupt
from pipelines.store import Store
from pipelines.training.checkpoints.manifest import Latest, Manifest, ShardFile

logger = logging.getLogger(__name__)

LATEST = "latest.json"
METRICS = "metrics.jsonl"
_STEP = re.compile(r"step-(\d{8,})")

T = TypeVar("T")


class CheckpointFolder:
    """Reads and writes whole files; what a file holds is for others to know."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path

    def __repr__(self) -> str:
        return f"CheckpointFolder({self._path!r})"

    def begin(self, step: int) -> None:
        """Remove what a killed or damaged training left of a step that is about to be written."""
        self._remove(step)

    def put(self, step: int, name: str, *pieces: bytes | memoryview) -> ShardFile:
        """Write one file of a step, and return what its manifest must say of it."""
        self._store.put(f"{self.step_path(step)}/{name}", *pieces)
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return ShardFile(size_bytes=sum(map(len, pieces)), sha256=digest.hexdigest())

    def commit(self, manifest: Manifest, *, keep: int) -> None:
        """Make a step whose files are written a checkpoint, point to it, and remove all but the `keep` newest."""
        self._store.put(f"{self.step_path(manifest.step)}/{MANIFEST}", manifest.seal())
        self._store.put(f"{self._path}/{LATEST}", Latest(step=manifest.step).seal())
        self._prune(manifest.step, keep)

    @classmethod
    def of(cls, store: Store, checkpoint: str) -> tuple[Self, int]:
        """Return folder and step of one checkpoint, `<folder>/step-00000100`."""
        path, _, name = checkpoint.rpartition("/")
        return cls(store, path), int(name.removeprefix("step-"))

    def candidates(self) -> Iterator[int]:
        """Yield all steps that may have a checkpoint, newest first; none is newer than the pointer says."""
        steps = sorted(self._steps(), reverse=True)
        pointer = self._store.read(f"{self._path}/{LATEST}")
        if pointer is None:
            yield from steps
            return
        try:
            latest = Latest.unseal(pointer).step
        except ArtifactCorrupt as damage:
            logger.warning("checkpoint %s: %s %s; using the newest sound checkpoint", self._path, LATEST, damage)
            yield from steps
            return
        yield latest
        yield from (step for step in steps if step < latest)

    def manifest(self, step: int) -> Manifest:
        """Read a step's manifest.

        Raises:
            ArtifactCorrupt: when there is none, or it is damaged.
        """
        where = f"checkpoint {self.step_path(step)}: {MANIFEST}"
        try:
            manifest = Manifest.unseal(self._store.read(f"{self.step_path(step)}/{MANIFEST}"))
        except ArtifactCorrupt as damage:
            raise ArtifactCorrupt(f"{where} {damage}") from damage
        if manifest.step != step:
            raise ArtifactCorrupt(f"{where} is of step {manifest.step}")
        return manifest

    def read(self, manifest: Manifest, name: str) -> bytes:
        """Return one small file of a checkpoint, verified.

        Raises:
            ArtifactCorrupt: when it is missing or a byte differs from its manifest; names it.
        """
        return self._sound(verified.read, manifest, name)

    def verify(self, manifest: Manifest, name: str) -> verified.Landmarks:
        """Read one file of a checkpoint and keep none of it; return by what `pieces` knows its bytes again.

        Raises:
            ArtifactCorrupt: when it is missing or a byte differs from its manifest; names it.
        """
        return self._sound(verified.landmarks, manifest, name)

    def pieces(self, manifest: Manifest, name: str, known: verified.Landmarks) -> Iterator[bytes]:
        """Yield the very bytes of a file that were verified.

        Raises:
            StoreUnavailable: when the file has changed since.
        """
        return verified.pieces(self._store, f"{self.step_path(manifest.step)}/{name}", known)

    def step_path(self, step: int) -> str:
        """Return the folder of a step."""
        return f"{self._path}/step-{step:08d}"

    def _sound(self, read: Callable[[Store, str, str], T | None], manifest: Manifest, name: str) -> T:
        path = self.step_path(manifest.step)
        try:
            found = read(self._store, f"{path}/{name}", manifest.files[name].sha256)
        except FileNotFoundError:
            raise ArtifactCorrupt(f"checkpoint {path}: {name} is missing") from None
        if found is None:
            raise ArtifactCorrupt(f"checkpoint {path}: {name} differs from its manifest")
        return found

    def _steps(self) -> set[int]:
        found = (_STEP.search(path) for path in self._store.list(self._path))
        return {int(match[1]) for match in found if match}

    def _prune(self, newest: int, keep: int) -> None:
        """Remove what is not among the `keep` newest, and what a killed or damaged training left beyond `newest`."""
        steps = sorted(self._steps())
        kept = [step for step in steps if step <= newest][-keep:]
        for step in set(steps) - set(kept):
            self._remove(step)

    def _remove(self, step: int) -> None:
        folder = self.step_path(step)
        self._store.delete(f"{folder}/{MANIFEST}")
        for path in self._store.list(folder):
            self._store.delete(path)
