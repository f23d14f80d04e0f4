"""How `torch.distributed.checkpoint` reads from the store: every file verified on every rank before a tensor is set."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import StorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from pipelines.training.checkpoints.folder import METRICS, CheckpointFolder
from pipelines.training.checkpoints.manifest import Manifest, SavedTensor
from pipelines.training.checkpoints.rows import read_rows
from pipelines.training.checkpoints.shard import TORCH_DTYPES
from pipelines.verified import Landmarks


class StoreReader(StorageReader):  # type: ignore[misc]  # torch is not followed by mypy
    """Reads one checkpoint straight into the tensors that it is for, and holds no more than some rows besides.

    A rank reads the files that it needs twice: while the plan is made, to verify them, and once all ranks have found
    theirs sound, to set its tensors. The second time it takes no byte that is not the one it verified.
    """

    def __init__(self, folder: CheckpointFolder, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._sound: dict[str, Landmarks] = {}
        self.metrics = b""
        """Readings up to this checkpoint, once it was read."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Each reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the manifest in DCP's words."""
        return Metadata({name: _describe(saved) for name, saved in self._manifest.tensors.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The manifest is known."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Verify what this rank needs; no rank goes on to `read_data` unless each one's files are sound.

        Raises:
            ArtifactCorrupt: when a file is missing or damaged; names it.
        """
        self._sound = {name: self._folder.verify(self._manifest, name) for name in self._by_file(plan)}
        self.metrics = self._folder.read(self._manifest, METRICS)
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """No rank reads for another."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Set the tensors of a plan.

        Raises:
            StoreUnavailable: when a file has changed since it was verified. Some tensors are set then, so that this
                training cannot go on; the next one finds the damage before it sets any.
        """
        for name, items in self._by_file(plan).items():
            pieces = self._folder.pieces(self._manifest, name, self._sound[name])
            for fqn, first, rows in read_rows(pieces, items):
                for item in items[fqn]:
                    _copy(rows, first, item, planner.resolve_tensor(item).detach())
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No reader is chosen by a name."""
        return False

    def _by_file(self, plan: LoadPlan) -> dict[str, dict[str, list[ReadItem]]]:
        """Return what is read from each file, by the name of the tensor."""
        found: dict[str, dict[str, list[ReadItem]]] = defaultdict(lambda: defaultdict(list))
        for item in plan.items:
            found[self._file_of(item)][item.storage_index.fqn].append(item)
        return found

    def _file_of(self, item: ReadItem) -> str:
        offsets = tuple(item.storage_index.offset)
        return next(c.file for c in self._manifest.tensors[item.storage_index.fqn].chunks if c.offsets == offsets)


def _copy(rows: torch.Tensor, first: int, item: ReadItem, target: torch.Tensor) -> None:
    """Copy what an item wants of some rows of a stored chunk.

    Args:
        rows: shape (rows, ...).
        first: number of the first of them in the chunk.
        item: says which part of the chunk is wanted.
        target: shape of that part.
    """
    (start, *offsets), (num_rows, *lengths) = item.storage_offsets or (0,), item.lengths or (1,)
    begin, end = max(first, start), min(first + len(rows), start + num_rows)
    if begin < end:
        wanted = narrow_tensor_by_index(rows, (begin - first, *offsets), (end - begin, *lengths))
        torch.atleast_1d(target)[begin - start : end - start].copy_(wanted)


def _describe(saved: SavedTensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in saved.chunks]
    properties = TensorProperties(dtype=TORCH_DTYPES[saved.dtype])
    return TensorStorageMetadata(properties, torch.Size(saved.shape), chunks)
