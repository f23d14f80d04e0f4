"""What each step measured, kept on the device until it is read."""

from __future__ import annotations

import math
import time

import torch

from pipelines.errors import TrainingDiverged
from pipelines.spec import TrainingConfig
from pipelines.training.metrics import Reading
from pipelines.training.schedule import learning_rate
from pipelines.training.strategies import Strategy


class Meter:
    """Collects loss and gradient norm per step; only a reading makes the host wait for the device."""

    def __init__(self, config: TrainingConfig, strategy: Strategy, *, done: int, seconds_before: float) -> None:
        self._config = config
        self._strategy = strategy
        self._done = done
        self._seconds_before = seconds_before
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._started = self._last = time.perf_counter()

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take one step's loss and gradient norm, scalars on the device."""
        self._losses.append(loss)
        self._norms.append(norm)

    def read(self) -> Reading:
        """Return the means over ranks and over the steps since the last reading.

        Raises:
            TrainingDiverged: when one of them is not a finite number; names the first such step.
        """
        shared = self._strategy.mean(torch.stack([torch.stack(self._losses), torch.stack(self._norms)]))
        losses, norms = shared.tolist()
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=self._done + 1):
            _check_finite(step, "loss", loss)
            _check_finite(step, "gradient norm", norm)
        return self._reading(sum(losses) / len(losses), sum(norms) / len(norms))

    def _reading(self, loss: float, norm: float) -> Reading:
        now = time.perf_counter()
        num_steps = len(self._losses)
        self._done += num_steps
        tokens_per_step = self._config.batch_size * self._config.sequence_length
        seconds_per_step = (now - self._last) / num_steps
        self._last = now
        self._losses.clear()
        self._norms.clear()
        return Reading(
            step=self._done,
            loss=loss,
            learning_rate=learning_rate(self._done - 1, self._config),
            gradient_norm=norm,
            tokens=self._done * tokens_per_step,
            tokens_per_second=tokens_per_step / seconds_per_step,
            seconds=self._seconds_before + now - self._started,
            eta_seconds=(self._config.max_steps - self._done) * seconds_per_step,
            at=time.time(),
        )


def _check_finite(step: int, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"training: {name} is {value} at step {step}; lower training.learning_rate or training.clip_norm, or "
            "lengthen training.warmup_steps; nothing was published"
        )
