"""From a loss to new weights: gradients are scaled back, clipped, judged and applied; the host waits for nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch import nn

from pipelines.spec import TrainingConfig
from pipelines.training.optimizer import set_learning_rate
from pipelines.training.precision import gradient_scaler
from pipelines.training.stability import Stability
from pipelines.training.strategies import Strategy
from pipelines.training.strategies.vectors import trained_parameters


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
        self._optimizer, self._parameters = optimizer, trained_parameters(model)
        self._strategy, self._stability = strategy, stability
        self._clip_norm = config.clip_norm
        self._scaler = gradient_scaler(dtype, strategy.device)
        self._share = torch.tensor(1.0 / config.accumulation_steps, device=strategy.device)

    def backward(self, loss: torch.Tensor) -> None:
        """Add one micro-batch's share to the gradients."""
        scaled = self._scaler.scale(loss) if self._scaler else loss
        scaled.backward(self._share)

    def apply(self, rate: float, loss: torch.Tensor) -> torch.Tensor:
        """Change the weights, unless the numbers are bad, and forget the gradients.

        Args:
            rate: at which to learn.
            loss: mean over this rank's share of the batch, a scalar on the device.

        Returns:
            the norm of the gradients before they were clipped, a scalar on the device.
        """
        set_learning_rate(self._optimizer, rate)
        if self._scaler:
            self._scaler.unscale_(self._optimizer)
        norm = self._strategy.clip(self._parameters, self._clip_norm)
        if self._stability.allows(self._optimizer, loss, norm):
            self._optimizer.step()
        if self._scaler:
            self._scaler.update()
        for parameter in self._parameters:  # as `zero_grad` does, which takes many times as long
            parameter.grad = None
        return norm

    def progress(self) -> dict[str, JsonValue]:
        """Return what a checkpoint is to keep: the scale, where there is one."""
        return {"gradient_scaler": self._scaler.state_dict() if self._scaler else {}}

    def restore(self, progress: Mapping[str, JsonValue]) -> None:
        """Go on with the scale of a checkpoint."""
        if self._scaler and (state := progress.get("gradient_scaler")):
            self._scaler.load_state_dict(state)
