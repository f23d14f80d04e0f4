"""What the loop knows of a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from pipelines.training.initial import Named


class Strategy(Protocol):
    """How ranks share the work: who holds which part of the model, who learns from which data, what is exchanged when.

    The loop calls `shard`, gives the model its weights, makes the optimizer, calls `wrap`, and then for each step
    `micro_batch` around each forward and backward pass, `clip`, the optimizer's step and `after_step`.
    """

    rank: int
    world_size: int
    device: torch.device

    data_rank: int
    """Which share of each batch this rank learns from."""

    data_world_size: int
    """Shares of each batch."""

    replica: str
    """Empty while all ranks hold one model together; else the name of this rank's own, whose state is its own too."""

    judges: bool
    """Whether this rank's loss and gradient decide about its steps, so that it follows `training.stability`."""

    @property
    def has_lost_ranks(self) -> bool:
        """Whether ranks were left behind, so that what all do together is done no more; it may turn at any moment."""

    def shard(self, module: nn.Module) -> nn.Module:
        """Make room on the device for a model with its loss, whole or this rank's part of every parameter, in place.

        The model comes from the meta device, without weights: no rank ever holds more of it than its part.

        Raises:
            BadInput: when the model cannot be divided among the ranks.
        """

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        """Return the module to call; it shares its parameters with `module`, which takes inputs like `example`."""

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward of one micro-batch; gradients are exchanged with the last."""

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
        """Scale the gradients of all trained parameters down to a norm over the whole model.

        Returns:
            the norm before, a scalar on the device.
        """

    def after_step(self, model: nn.Module, step: int) -> None:
        """Exchange what is exchanged between steps; `step` counts the steps done."""

    def lose_ranks(self) -> None:
        """Note for all ranks that one does not answer, if they can go on without it; any thread may call this."""

    def finish(self, model: nn.Module) -> None:
        """Bring the ranks' models together after the last step."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """Return what this strategy must remember over a restart besides model and optimizer.

        A checkpoint may be read straight into these tensors, before `restore`.
        """

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` returned; called after model and optimizer were restored."""

    def full_weights(self, model: nn.Module) -> Iterator[Named]:
        """Yield the whole model's weights one by one, on the host, with their names; every rank must take all of them.

        Of weights that are tied, one. What they are is defined on rank 0.
        """

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over ranks, element by element."""

    def from_first(self, value: int) -> int:
        """Return rank 0's number."""

    def any_rank(self, claim: bool) -> bool:
        """Return whether a claim holds on any rank; no rank waits for its device."""

    def agree_to_stop(self, claim: bool) -> bool:
        """Return whether all ranks stop after this step, for one was told to: this one, when it claims so.

        All return the same at the same step, though not always at once: ranks that do not wait for each other agree on
        a later one.
        """
