"""From a loss to new weights: gradients are scaled back, clipped, judged and applied; the host waits for nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch import nn

from pipelines.spec import TrainingConfig
from pipelines.training.optimizer import set_learning_rate
from pipelines.training.precision import gradient_scaler
from pipelines.training.schedule import learning_rate
from pipelines.training.stability import Stability
from pipelines.training.strategies import Strategy


class Update:
    """The optimizer step of one training."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        config: TrainingConfig,
        strategy: Strategy,
        stability: Stability,
        dtype: torch.dtype,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._config, self._strategy, self._stability = config, strategy, stability
        self._scaler = gradient_scaler(dtype, strategy.device)
        self._share = torch.tensor(1.0 / config.accumulation_steps, device=strategy.device)

    def backward(self, loss: torch.Tensor) -> None:
        """Add one micro-batch's share to the gradients."""
        self._scaler.scale(loss).backward(self._share)

    def apply(self, step: int, loss: torch.Tensor) -> torch.Tensor:
        """Change the weights, unless the numbers are bad, and forget the gradients.

        Args:
            step: counted from 0.
            loss: mean over this rank's share of the batch, a scalar on the device.

        Returns:
            the norm of the gradients before they were clipped, a scalar on the device.
        """
        set_learning_rate(self._optimizer, learning_rate(step, self._config))
        self._scaler.unscale_(self._optimizer)
        norm = self._strategy.clip(self._model, self._config.clip_norm)
        if self._stability.allows(self._optimizer, loss, norm):
            self._optimizer.step()
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def progress(self) -> dict[str, JsonValue]:
        """Return what a checkpoint is to keep: the scale, where there is one."""
        return {"gradient_scaler": self._scaler.state_dict()}

    def restore(self, progress: Mapping[str, JsonValue]) -> None:
        """Go on with the scale of a checkpoint."""
        if state := progress.get("gradient_scaler"):
            self._scaler.load_state_dict(state)
