"""The training loop of one rank."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch

from pipelines.formats.shards import TokenShards
from pipelines.store import Store
from pipelines.training import state
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.data import BatchOrder, WindowedTokens
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.meter import Meter
from pipelines.training.metrics import MetricsLog
from pipelines.training.model import NextTokenLoss, build_model, save_model
from pipelines.training.optimizer import build_optimizer, set_learning_rate
from pipelines.training.precision import compute_dtype, deterministic
from pipelines.training.schedule import learning_rate
from pipelines.training.strategies import Strategy

READ_EVERY_STEPS = 10
"""Steps between two readings: the only times, besides checkpoints, when the host waits for the device."""


def train(job: TrainingJob, strategy: Strategy) -> None:
    """Train, from the newest sound checkpoint on, and leave the model in the job's folder.

    A training that is told to stop leaves a checkpoint of what it has done, and no model.

    Raises:
        TrainingDiverged: when loss or gradient are not finite; names step and value.
        StoreUnavailable: when a checkpoint cannot be written or read.
    """
    training = Training(job, strategy)
    if not training.run():
        return
    strategy.finish(training.model)
    weights = strategy.full_weights(training.model)
    if strategy.rank == 0:
        save_model(training.model, weights, job.tokenizer, job.model_folder)


class Training:
    """What one rank holds while it trains."""

    def __init__(self, job: TrainingJob, strategy: Strategy) -> None:
        config = job.training
        self._config = config
        self._strategy = strategy
        self._stop_file = job.stop_file
        shards = TokenShards.open(job.tokens)
        self._tokens = WindowedTokens(shards.split("train"), config.sequence_length)
        self._order = BatchOrder(self._tokens.num_windows, config.batch_size, config.seed)
        model = build_model(
            job.architecture, vocabulary_size=shards.vocabulary_size, eos_id=shards.eos_id, seed=config.seed
        )
        self.model = strategy.shard(model.to(strategy.device))
        self._optimizer = build_optimizer(self.model, config, strategy.device)
        self._dtype = compute_dtype(config.precision, strategy.device)
        self._module = strategy.wrap(NextTokenLoss(self.model), self._batch([0]))
        self._checkpoints = Checkpoints(Store(job.store_url), job.checkpoints)
        self._done = 0
        history = self._resume(job)
        self._log = MetricsLog(job.metrics_file, history) if strategy.rank == 0 else None
        seconds_before = self._log.seconds_before if self._log else 0.0
        self._meter = Meter(config, strategy, done=self._done, seconds_before=seconds_before)

    def run(self) -> bool:
        """Take the steps that are not done yet, with a reading and a checkpoint now and then and at the end.

        Returns:
            False when the training was told to stop before its last step.
        """
        with deterministic(self._strategy.device):
            for step in range(self._done, self._config.max_steps):
                self._step(step)
                self._done = step + 1
                is_stopped = self._strategy.any_rank(self._stop_file.exists())
                self._read_and_save(is_stopped=is_stopped)
                if is_stopped and self._done < self._config.max_steps:
                    return False
        return True

    def _read_and_save(self, *, is_stopped: bool) -> None:
        is_last = self._done == self._config.max_steps
        is_checkpoint = is_last or is_stopped or self._done % self._config.checkpoint_every_steps == 0
        if is_checkpoint or self._done % READ_EVERY_STEPS == 0:
            self._read()
        if is_checkpoint:
            self._save()

    def _step(self, step: int) -> None:
        config, strategy = self._config, self._strategy
        set_learning_rate(self._optimizer, learning_rate(step, config))
        micro_batches = self._order.windows(
            step,
            rank=strategy.data_rank,
            world_size=strategy.data_world_size,
            accumulation_steps=config.accumulation_steps,
        )
        total = torch.zeros((), device=strategy.device)
        for number, windows in enumerate(micro_batches, start=1):
            with strategy.micro_batch(self._module, last=number == len(micro_batches)):
                with self._autocast():
                    loss = self._module(self._batch(windows)) / len(micro_batches)
                loss.backward()
            total += loss.detach()
        norm = strategy.clip(self.model, config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        strategy.after_step(self.model, step + 1)
        self._meter.add(total, norm)

    def _batch(self, windows: Iterable[int]) -> torch.Tensor:
        batch = torch.from_numpy(self._tokens.read(windows))
        if self._strategy.device.type == "cuda":
            return batch.pin_memory().to(self._strategy.device, non_blocking=True)
        return batch

    def _autocast(self) -> AbstractContextManager[None]:
        enabled = self._dtype is not torch.float32
        context: AbstractContextManager[None] = torch.autocast(self._strategy.device.type, self._dtype, enabled=enabled)
        return context

    def _read(self) -> None:
        reading = self._meter.read()
        if self._log:
            self._log.append(reading)

    def _save(self) -> None:
        generators = self._strategy.gather(state.generators(self._strategy.device))
        if self._log:
            files = state.capture(self.model, self._optimizer, generators, self._log.content())
            self._checkpoints.save(self._done, files, keep=self._config.keep_checkpoints)

    def _resume(self, job: TrainingJob) -> bytes:
        """Go on from the newest sound checkpoint, which rank 0 chooses; return its metrics."""
        checkpoint, damages = None, list[str]()
        if self._strategy.rank == 0:
            checkpoint, damages = self._checkpoints.newest()
            resumption = Resumption(step=checkpoint.step if checkpoint else 0, damages=tuple(damages))
            job.resumption_file.write_text(resumption.model_dump_json(), encoding="utf-8")
        self._done = self._strategy.from_first(checkpoint.step if checkpoint else 0)
        if self._done == 0:
            return b""
        if checkpoint is None:
            checkpoint = self._checkpoints.load(self._done)
        state.restore(checkpoint.files, self.model, self._optimizer, self._strategy.rank)
        return checkpoint.files[state.METRICS]
