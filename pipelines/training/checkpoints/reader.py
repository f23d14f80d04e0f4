"""How `torch.distributed.checkpoint` reads from the store: every file verified, nothing live touched."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import DefaultLoadPlanner, StorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from pipelines.training.checkpoints.folder import METRICS, CheckpointFolder
from pipelines.training.checkpoints.manifest import Manifest, SavedTensor
from pipelines.training.checkpoints.shard import TORCH_DTYPES, local


class AsidePlanner(DefaultLoadPlanner):  # type: ignore[misc]  # torch is not followed by mypy
    """Loads into host memory beside the live tensors, so that a checkpoint that proves damaged has changed nothing."""

    def __init__(self, wanted: Mapping[str, torch.Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.values = {name: torch.empty_like(local(tensor), device="cpu") for name, tensor in wanted.items()}
        """This rank's part of each tensor."""

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """Return where a tensor is loaded to."""
        return self.values[index.fqn]


class StoreReader(StorageReader):  # type: ignore[misc]  # torch is not followed by mypy
    """Reads one checkpoint, file by file, so that a rank holds no more than one of them at a time."""

    def __init__(self, folder: CheckpointFolder, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
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
        """Each rank reads what it needs."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """No rank reads for another."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the chunks of a plan.

        Raises:
            ArtifactCorrupt: when a file is missing or damaged; names it.
        """
        by_file = defaultdict[str, list[ReadItem]](list)
        for item in plan.items:
            by_file[self._file_of(item)].append(item)
        for name, items in by_file.items():
            chunks = safetensors.torch.load(self._folder.read(self._manifest, name))
            for item in items:
                chunk = narrow_tensor_by_index(chunks[item.storage_index.fqn], item.storage_offsets, item.lengths)
                planner.resolve_tensor(item).copy_(chunk)
        self.metrics = self._folder.read(self._manifest, METRICS)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No reader is chosen by a name."""
        return False

    def _file_of(self, item: ReadItem) -> str:
        offsets = tuple(item.storage_index.offset)
        return next(c.file for c in self._manifest.tensors[item.storage_index.fqn].chunks if c.offsets == offsets)


def _describe(saved: SavedTensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in saved.chunks]
    properties = TensorProperties(dtype=TORCH_DTYPES[saved.dtype])
    return TensorStorageMetadata(properties, torch.Size(saved.shape), chunks)
