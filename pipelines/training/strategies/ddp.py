"""Synchronous data parallel: every rank holds the model, gradients are averaged."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.training.strategies.ranks import Ranks
from pipelines.training.strategies.single import Whole


class DataParallel(Ranks, Whole):
    """PyTorch's DistributedDataParallel."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.data_rank, self.data_world_size = self.rank, self.world_size

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        wrapped = DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        # After its first backward pass DDP regroups gradients, and with more than two ranks the grouping decides the
        # order of their sums. Regrouping now lets a resumed training sum in the order of an unbroken one.
        wrapped(example).backward()
        wrapped(example).backward()
        wrapped.zero_grad(set_to_none=True)
        return wrapped

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(module, DistributedDataParallel):
            return contextlib.nullcontext()
        exchange_later: AbstractContextManager[None] = module.no_sync()
        return exchange_later
