"""Saves a training while it goes on, and brings it back."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import JsonValue
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from pipelines.errors import ArtifactCorrupt, SlipwayError
from pipelines.store import Store
from pipelines.training.checkpoints.folder import METRICS, CheckpointFolder
from pipelines.training.checkpoints.identity import check_same_model, identity
from pipelines.training.checkpoints.manifest import Manifest, SavedTensor, ShardFile
from pipelines.training.checkpoints.ownership import has_elements, owned
from pipelines.training.checkpoints.reader import StoreReader
from pipelines.training.checkpoints.shard import Shard
from pipelines.training.checkpoints.state import TrainingState
from pipelines.training.checkpoints.writer import StoreWriter
from pipelines.training.job import TrainingJob
from pipelines.training.strategies import Strategy

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
"""How often a rank that waits for a checkpoint looks whether others were lost meanwhile."""

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # a training of one rank has none


def open_checkpointer(
    job: TrainingJob, strategy: Strategy, model: nn.Module, optimizer: torch.optim.Optimizer, vocabulary_size: int
) -> Checkpointer:
    """Return what saves and restores the checkpoints of a job; every rank must call it."""
    store, origin = Store(job.store_url), job.training.resume_from
    return Checkpointer(
        CheckpointFolder(store, job.checkpoints),
        TrainingState(model, optimizer, strategy),
        strategy,
        kind=job.training.strategy.kind,
        model=identity(job.architecture, job.training, vocabulary_size),
        keep=job.training.keep_checkpoints,
        origin=CheckpointFolder.of(store, origin) if origin else None,
    )


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on."""

    step: int = 0
    """Optimizer steps that are done; 0: there is no sound checkpoint."""

    progress: Mapping[str, JsonValue] = field(default_factory=dict)
    """What the loop asked to be remembered."""

    metrics: bytes = b""
    """Readings so far."""

    damages: tuple[str, ...] = ()
    """What was wrong with each newer checkpoint."""


class Checkpointer:
    """Saves and restores one rank's part of a training; all ranks call each method at the same step.

    A save copies what this rank must write, and returns; a thread of its own writes it and meets the other ranks'. Of
    that checkpoint nothing is seen until all of it is written. What went wrong there is raised by the next call.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        state: TrainingState,
        strategy: Strategy,
        *,
        kind: str,
        model: Mapping[str, JsonValue],
        keep: int,
        origin: tuple[CheckpointFolder, int] | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: of this training.
            state: what is saved and restored.
            strategy: of this rank.
            kind: its name in the spec.
            model: what `identity` says of the model.
            keep: how many checkpoints are kept.
            origin: folder and step of another training's checkpoint, to go on from while this one has none.
        """
        self._folder = folder
        self._state = state
        self._strategy = strategy
        self._kind = kind
        self._model = dict(model)
        self._keep = keep
        self._origin = origin
        self._shard = Shard()
        self._is_alone = strategy.world_size == 1
        # A group of its own: what the saving thread says to other ranks must not mix with what the training says.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._saving: Future[Any] | None = None

    def save(self, step: int, *, progress: Mapping[str, JsonValue], metrics: bytes) -> None:
        """Begin to write a checkpoint; it may take until the next call, and is waited for there.

        Args:
            step: optimizer steps done.
            progress: what the loop wants back.
            metrics: readings so far; rank 0's are kept.

        Raises:
            StoreUnavailable: when the checkpoint before could not be written; those before that stay as they are.
        """
        self.wait()
        if self._strategy.has_lost_ranks:
            if self._strategy.rank != 0:
                return
            self._go_on_alone()
        started = time.perf_counter()

        def commit(files: dict[str, ShardFile], tensors: dict[str, SavedTensor]) -> None:
            manifest = Manifest(
                step=step,
                world_size=self._strategy.world_size,
                strategy=self._kind,
                model=self._model,
                progress=dict(progress),
                files={**files, METRICS: self._folder.put(step, METRICS, metrics)},
                tensors=tensors,
            )
            self._folder.commit(manifest, keep=self._keep)
            size = sum(file.size_bytes for file in manifest.files.values())
            logger.info("checkpoint of step %d: %d bytes in %.1f s", step, size, time.perf_counter() - started)

        mine = owned(self._state.shared(), self._strategy.rank, self._strategy.world_size)
        self._saving = dcp.async_save(
            {**mine, **self._state.own()},
            storage_writer=StoreWriter(self._folder, step, self._strategy.rank, self._shard, commit),
            planner=dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=self._group,
            async_stager=self._shard,
            no_dist=self._is_alone,
        )
        if not self._is_alone:
            self._saving.add_done_callback(self._tell_others)
        logger.info("checkpoint of step %d: the training waited %.3f s", step, time.perf_counter() - started)

    def wait(self) -> None:
        """Return when the checkpoint that was begun last is complete.

        Raises:
            StoreUnavailable: when it could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return
        while not futures.wait([saving], timeout=_POLL_SECONDS).done:
            if self._strategy.has_lost_ranks and not self._is_alone:
                return  # a checkpoint that was begun with a rank that is lost may never be complete
        try:
            with _plain_errors():
                saving.result()
        except RuntimeError as error:
            if not self._strategy.replica:
                raise
            logger.warning("a checkpoint was not completed, for a rank does not answer: %s", error)

    def _tell_others(self, saving: Future[Any]) -> None:
        """Say that a rank is gone: others may wait for this one, which waits no more."""
        error = saving.exception()
        if isinstance(_cause(error) if isinstance(error, CheckpointException) else error, RuntimeError):
            self._strategy.lose_ranks()

    def _go_on_alone(self) -> None:
        """Let rank 0 save what it has, without the others, and without what may still wait for them."""
        if not self._is_alone:
            logger.warning("ranks were lost: checkpoints hold the first rank's state from now on")
            self._shard.give_up()
            self._is_alone, self._shard = True, Shard()

    def resume(self) -> Resumed:
        """Restore the newest sound checkpoint, which rank 0 chooses, else the origin; without one, change nothing.

        Raises:
            BadInput: when the checkpoint is of another model.
            ArtifactCorrupt: when the origin is damaged.
            StoreUnavailable: when the store cannot be read.
        """
        self.wait()
        candidates = iter(self._folder.candidates() if self._strategy.rank == 0 else ())
        damages: list[str] = []
        while step := self._strategy.from_first(next(candidates, 0)):
            try:
                return self._restore(self._folder, step, damages)
            except ArtifactCorrupt as damage:
                damages.append(str(damage))
        if self._origin:
            return self._restore(*self._origin, damages)
        return Resumed(damages=tuple(damages))

    def _manifest(self, folder: CheckpointFolder, step: int) -> Manifest:
        """Read a manifest; damage that one rank meets is damage to all."""
        manifest, problem = None, f"checkpoint {folder.step_path(step)}: a rank cannot read its manifest"
        try:
            manifest = folder.manifest(step)
        except ArtifactCorrupt as damage:
            problem = str(damage)
        if self._strategy.any_rank(manifest is None) or manifest is None:
            raise ArtifactCorrupt(problem)
        return manifest

    def _restore(self, folder: CheckpointFolder, step: int, damages: Sequence[str]) -> Resumed:
        manifest = self._manifest(folder, step)
        check_same_model(manifest, self._model, self._state.shapes, folder.step_path(step))
        wanted = self._state.wanted(manifest, with_strategy=manifest.strategy == self._kind)
        held = {name: tensor.detach() for name, tensor in wanted.items() if has_elements(tensor)}
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        reader = StoreReader(folder, manifest)
        with _plain_errors():
            dcp.load(held, storage_reader=reader, planner=planner, process_group=self._group, no_dist=self._is_alone)
        self._state.adopt(wanted)
        return Resumed(step, manifest.progress, reader.metrics, tuple(damages))


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what a rank raised rather than the report of all ranks."""
    try:
        yield
    except CheckpointException as report:
        raise _cause(report) from report


def _cause(report: CheckpointException) -> BaseException:
    causes: list[BaseException] = [cause for cause, _ in report.failures.values()]
    return next((cause for cause in causes if isinstance(cause, SlipwayError)), causes[0])
