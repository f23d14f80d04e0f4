"""The training loop of one rank."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from pipelines.formats.shards import TokenShards
from pipelines.spec import TrainingConfig
from pipelines.training.checkpoints.checkpointer import open_checkpointer
from pipelines.training.compilation import compile_layers
from pipelines.training.data import BatchOrder, Share, WindowedTokens
from pipelines.training.files import append_line
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.layers import recompute_activations
from pipelines.training.loader import Loader
from pipelines.training.loss import NextTokenLoss
from pipelines.training.machine import leave_record
from pipelines.training.meter import Meter
from pipelines.training.metrics import MetricsLog
from pipelines.training.optimizer import build_optimizer
from pipelines.training.pace import Pace
from pipelines.training.precision import autocast, compute_dtype, deterministic
from pipelines.training.schedule import learning_rate
from pipelines.training.stability import Rewind, Rewound, Stability
from pipelines.training.start import give_weights, model_without_weights, save_trained
from pipelines.training.strategies import Strategy
from pipelines.training.supervision.heartbeat import LiveState, Phase
from pipelines.training.update import Update

FINAL_STEPS = 10
"""The last reading is about as many steps, whatever the clock says: equal trainings end with equal numbers."""


def train(job: TrainingJob, strategy: Strategy, live: LiveState) -> None:
    """Train, from the newest sound checkpoint on, and leave the model in the job's folder.

    A training that is told to stop leaves a checkpoint of what it has done, and no model.

    Raises:
        TrainingDiverged: when loss or gradient are out of order, and the spec says to stop; names step and value.
        StoreUnavailable: when a checkpoint cannot be written or read.
    """
    training = _trained(job, strategy, live)
    if training is None:
        return
    live.phase = Phase.ENDING
    strategy.finish(training.model)
    publish(job, strategy, training.model)
    leave_record(job, strategy, training.model)


def publish(job: TrainingJob, strategy: Strategy, model: nn.Module) -> None:
    """Leave the model in the job's folder; rank 0 gathers its weights one by one, and the others take part."""
    weights = strategy.full_weights(model)
    if strategy.rank == 0:
        save_trained(job, model, weights)
    deque(weights, maxlen=0)


def _trained(job: TrainingJob, strategy: Strategy, live: LiveState) -> Training | None:
    """Train to the end, going back as often as the spec's policies say; return None when told to stop."""
    rewound = Rewound()
    while True:
        live.phase = Phase.STARTING
        training = Training(job, strategy, live, rewound)
        try:
            return training if training.run() else None
        except Rewind as rewind:
            rewound = rewind.rewound
        del training
        _free_memory(strategy.device)  # the next one needs it


def _free_memory(device: torch.device) -> None:
    """Give back what a training held; sharded, compiled and recomputed layers refer to themselves."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Training:
    """What one rank holds while it trains."""

    def __init__(
        self, job: TrainingJob, strategy: Strategy, live: LiveState | None = None, rewound: Rewound | None = None
    ) -> None:
        config = job.training
        self._config = config
        self._strategy = strategy
        self._stop_file = job.stop_file
        self._live = live or LiveState()
        shards = TokenShards.open(job.tokens)
        self._loader = _open_loader(shards, config, strategy)
        self.model = model_without_weights(job)
        if config.compile:
            compile_layers(self.model)
        if config.activation_checkpointing:
            recompute_activations(self.model)
        module = strategy.shard(NextTokenLoss(self.model))
        give_weights(job, self.model)
        optimizer = build_optimizer(self.model, config, strategy.device)
        dtype = compute_dtype(config.precision, strategy.device)
        self._autocast = autocast(dtype, strategy.device)
        with self._autocast:
            self._module = strategy.wrap(module, self._loader.example())
        self._checkpointer = open_checkpointer(job, strategy, self.model, optimizer, shards.vocabulary_size)
        self._stability = Stability(
            config.stability,
            strategy,
            tell=functools.partial(append_line, job.incidents_file),
            rewound=rewound,
            overflow_is_usual=dtype is torch.float16,
        )
        self._update = Update(
            self.model, optimizer, config=config, strategy=strategy, stability=self._stability, dtype=dtype
        )
        self._done = 0
        history = self._resume(job)
        self._log = MetricsLog(job.metrics_file, history) if strategy.rank == 0 else None
        seconds_before = self._log.seconds_before if self._log else 0.0
        self._meter = Meter(config, strategy, self._stability, done=self._done, seconds_before=seconds_before)
        self._is_paced_by_clock = job.read_every_steps is None
        self._pace = Pace(strategy, done=self._done, every_steps=job.read_every_steps)

    def run(self) -> bool:
        """Take the steps that are not done yet, with a reading and a checkpoint now and then and at the end.

        Returns:
            False when the training was told to stop before its last step.
        """
        ahead = self._stability.left_out_steps
        batches = self._loader.batches(range(self._done + ahead, self._config.max_steps + ahead))
        with deterministic(self._strategy.device), self._saved_before_going_back(), contextlib.closing(batches):
            while self._done < self._config.max_steps:
                for rate, micro_batches in zip(self._learning_rates(), batches, strict=False):
                    self._step(micro_batches, rate)
                if self._look_up():
                    break
        with self._live.during(Phase.SAVING):
            self._checkpointer.wait()
        return self._done == self._config.max_steps

    @contextlib.contextmanager
    def _saved_before_going_back(self) -> Iterator[None]:
        """Let a checkpoint that is being written be complete before it is looked for."""
        try:
            yield
        except Rewind:
            with self._live.during(Phase.SAVING):
                self._checkpointer.wait()
            raise

    def _learning_rates(self) -> list[float]:
        """Return those of the steps up to the next look: all that is to be decided until then."""
        return [learning_rate(step, self._config) for step in range(self._done, self._next_look())]

    def _next_look(self) -> int:
        """Return after how many steps there is something to do besides the steps."""
        last, every = self._config.max_steps, self._config.checkpoint_every_steps
        looks = (self._pace.next_look, (self._done // every + 1) * every, last - FINAL_STEPS, last)
        return min(look for look in looks if look > self._done)

    def _step(self, micro_batches: Sequence[torch.Tensor], rate: float) -> None:
        """Learn from micro-batches, each of shape (windows, sequence_length + 1), at a learning rate."""
        losses = []
        for number, windows in enumerate(micro_batches, start=1):
            with self._strategy.micro_batch(self._module, last=number == len(micro_batches)):
                with self._autocast:
                    loss = self._module(windows)
                self._update.backward(loss)
            losses.append(loss.detach())
        mean = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        norm = self._update.apply(rate, mean)
        self._done += 1
        self._strategy.after_step(self.model, self._done)
        self._meter.add(mean, norm)
        self._live.stepped(self._done)

    def _look_up(self) -> bool:
        """Read and save when it is time, the only time when the host waits for the device; return whether to end."""
        is_due = self._pace.is_due(self._done)
        is_stopped = is_due and self._strategy.agree_to_stop(self._stop_file.exists())
        is_last = self._done == self._config.max_steps
        is_checkpoint = is_last or is_stopped or self._done % self._config.checkpoint_every_steps == 0
        if is_checkpoint or self._is_reading_due(is_due):
            self._read()
        if is_checkpoint:
            self._save()
        if is_due and not is_last:
            self._pace.go_on(self._done)
        return is_stopped

    def _is_reading_due(self, is_due: bool) -> bool:
        steps_left = self._config.max_steps - self._done
        if self._is_paced_by_clock:
            return steps_left == FINAL_STEPS or (is_due and steps_left > FINAL_STEPS)
        return is_due

    def _read(self) -> None:
        reading = self._meter.read()
        if self._log:
            self._log.append(reading)

    def _save(self) -> None:
        metrics = self._log.content() if self._log else b""
        with self._live.during(Phase.SAVING):
            progress = {**self._stability.progress(), **self._update.progress()}
            self._checkpointer.save(self._done, progress=progress, metrics=metrics)

    def _resume(self, job: TrainingJob) -> bytes:
        """Go on from the newest sound checkpoint, and say which that is; return its metrics."""
        resumed = self._checkpointer.resume()
        if self._strategy.rank == 0:
            resumption = Resumption(step=resumed.step, damages=resumed.damages)
            job.resumption_file.write_text(resumption.model_dump_json(), encoding="utf-8")
        self._done = resumed.step
        self._stability.restore(self._done, resumed.progress)
        self._update.restore(resumed.progress)
        return resumed.metrics


def _open_loader(shards: TokenShards, config: TrainingConfig, strategy: Strategy) -> Loader:
    tokens = WindowedTokens(shards.split("train"), config.sequence_length)
    order = BatchOrder(tokens.num_windows, config.batch_size, config.seed)
    share = Share(strategy.data_rank, strategy.data_world_size, config.accumulation_steps)
    return Loader(tokens, order, share, strategy.device)
