"""One process, no communication; and what every strategy does that has nothing special to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from pipelines.training.initial import Named, make_room


class Together:
    """The parts of a strategy whose ranks hold one model together, and exchange everything within a step."""

    replica = ""
    judges = True

    @property
    def has_lost_ranks(self) -> bool:
        return False

    def lose_ranks(self) -> None:
        """Nobody can go on without a rank."""

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        return module

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def after_step(self, model: nn.Module, step: int) -> None:
        """Nothing is exchanged between steps."""

    def finish(self, model: nn.Module) -> None:
        """All ranks hold the same model."""

    def state(self) -> Mapping[str, torch.Tensor]:
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing is remembered."""


class Whole(Together):
    """The parts of a strategy of which each rank holds the whole model."""

    device: torch.device

    def shard(self, module: nn.Module) -> nn.Module:
        make_room(module, self.device)
        return module

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
        norm: torch.Tensor = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)  # no loop in Python on CPUs
        return norm

    def full_weights(self, model: nn.Module) -> Iterator[Named]:
        for name, weight in model.named_parameters():
            yield name, weight.detach().cpu()


class SingleRank(Whole):
    """One process."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = 0, 1, device
        self.data_rank, self.data_world_size = 0, 1

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def from_first(self, value: int) -> int:
        return value

    def any_rank(self, claim: bool) -> bool:
        return claim

    def agree_to_stop(self, claim: bool) -> bool:
        return claim
