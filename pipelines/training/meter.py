"""What each step measured, kept on the device until it is read."""

from __future__ import annotations

import resource
import time

import torch

from pipelines.spec import TrainingConfig
from pipelines.training.metrics import Reading
from pipelines.training.schedule import learning_rate
from pipelines.training.stability import Stability
from pipelines.training.strategies import Strategy


class Meter:
    """Collects loss and gradient norm per step; only a reading makes the host wait for the device."""

    def __init__(
        self, config: TrainingConfig, strategy: Strategy, stability: Stability, *, done: int, seconds_before: float
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._stability = stability
        self._done = done
        self._seconds_before = seconds_before
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._means = (0.0, 0.0)
        self._started = self._last = time.perf_counter()

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take one step's loss and gradient norm, scalars on the device."""
        self._losses.append(loss)
        self._norms.append(norm)

    def read(self) -> Reading:
        """Return the means over ranks and over the sound steps since the last reading.

        Raises:
            TrainingDiverged: when a number is out of order, and the policy is to stop.
            Rewind: when the policy is to go back.
        """
        rows = [torch.stack(self._losses), torch.stack(self._norms), torch.stack(self._stability.take_refused())]
        losses, norms, refused = self._strategy.mean(torch.stack(rows)).tolist()
        are_sound = self._stability.examine(self._done + 1, losses, norms, refused)
        sound = [pair for pair, is_sound in zip(zip(losses, norms, strict=True), are_sound, strict=True) if is_sound]
        if sound:  # else the means of the reading before stand
            self._means = (sum(loss for loss, _ in sound) / len(sound), sum(norm for _, norm in sound) / len(sound))
        return self._reading()

    def _reading(self) -> Reading:
        now = time.perf_counter()
        num_steps = len(self._losses)
        self._done += num_steps
        tokens_per_step = self._config.batch_size * self._config.sequence_length
        seconds_per_step = (now - self._last) / num_steps
        self._last = now
        self._losses.clear()
        self._norms.clear()
        loss, norm = self._means
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
            memory_bytes=_peak_memory_bytes(self._strategy.device),
            num_incidents=self._stability.num_incidents,
        )


def _peak_memory_bytes(device: torch.device) -> int:
    """Return what this rank held at most: of its GPU, or resident in the host's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
