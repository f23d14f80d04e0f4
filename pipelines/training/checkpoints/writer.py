"""How `torch.distributed.checkpoint` writes to the store: a safetensors file per rank, and a manifest in JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.distributed.checkpoint import StorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.checkpoints.manifest import Chunk, SavedTensor, ShardFile
from pipelines.training.checkpoints.shard import DTYPES, Shard

Commit = Callable[[dict[str, ShardFile], dict[str, SavedTensor]], None]
"""Told the files and tensors of a checkpoint whose ranks have all written."""


class StoreWriter(StorageWriter):  # type: ignore[misc]  # torch is not followed by mypy
    """Writes one step. The coordinator, rank 0, clears its folder before any rank writes, and commits after all did."""

    def __init__(self, folder: CheckpointFolder, step: int, rank: int, shard: Shard, commit: Commit) -> None:
        self._folder = folder
        self._step = step
        self._name = f"shard-{rank:05d}.safetensors"
        self._shard = shard
        self._commit = commit

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Each writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The rank is known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Each rank has one file, whatever is in it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Clear what an earlier try left of this step."""
        self._folder.begin(self._step)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the staged file; the plan was made from what is staged."""
        with self._shard.content() as pieces:
            written = self._folder.put(self._step, self._name, *pieces)
        place = (self._name, written.size_bytes, written.sha256)
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, item.tensor_storage_size(), place) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit the checkpoint."""
        written = [result for results_of_rank in results for result in results_of_rank]
        files = {
            name: ShardFile(size_bytes=size, sha256=sha256) for name, size, sha256 in {r.storage_data for r in written}
        }
        names = {(result.index.fqn, tuple(result.index.offset)): result.storage_data[0] for result in written}
        tensors = {fqn: _describe(fqn, saved, names) for fqn, saved in metadata.state_dict_metadata.items()}
        with self._shard.content():  # a checkpoint that was given up does not replace a later one
            self._commit(files, tensors)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No writer is chosen by a name."""
        return False


def _describe(fqn: str, saved: TensorStorageMetadata, files: dict[tuple[str, tuple[int, ...]], str]) -> SavedTensor:
    return SavedTensor(
        dtype=DTYPES[saved.properties.dtype],
        shape=tuple(saved.size),
        chunks=tuple(
            Chunk(file=files[fqn, tuple(chunk.offsets)], offsets=tuple(chunk.offsets), sizes=tuple(chunk.sizes))
            for chunk in saved.chunks
        ),
    )
