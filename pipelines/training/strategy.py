"""How ranks share the work. A strategy wraps the model and speaks to the other ranks; the loop knows no more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Strategy(Protocol):
    """What the loop needs from a strategy."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        """Return the module to call; it shares its parameters with `module`, which takes inputs like `example`."""

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward of one micro-batch; gradients are exchanged with the last."""

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over ranks, element by element."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return every rank's values, shape (world_size, ...)."""

    def from_first(self, value: int) -> int:
        """Return rank 0's number."""

    def any_rank(self, claim: bool) -> bool:
        """Return whether a claim holds on any rank; no rank waits for its device."""


class SingleRank:
    """One process, no communication."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = 0, 1, device

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        return module

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values.unsqueeze(0)

    def from_first(self, value: int) -> int:
        return value

    def any_rank(self, claim: bool) -> bool:
        return claim


class DataParallel:
    """Synchronous data parallel: every rank holds the model, gradients are averaged. Gloo on CPU, NCCL on GPU."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = dist.get_rank(), dist.get_world_size(), device
        self._hosts = dist.new_group(backend="gloo") if device.type == "cuda" else None  # None: the ranks' own group

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

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        local = values.to(self.device)
        rows = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(rows, local)
        return torch.stack(rows)

    def from_first(self, value: int) -> int:
        shared = torch.tensor([value], device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def any_rank(self, claim: bool) -> bool:
        shared = torch.tensor([int(claim)])
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self._hosts)
        return bool(shared.item())


@contextlib.contextmanager
def open_strategy(rendezvous: Path) -> Iterator[Strategy]:
    """Join the other ranks that torchrun started, meeting them at a file.

    Args:
        rendezvous: file name that this attempt's ranks share and no earlier one used.
    """
    device = _device()
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1:
        yield SingleRank(device)
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(str(rendezvous), world_size),
        rank=int(os.environ["RANK"]),
        world_size=world_size,
    )
    try:
        yield DataParallel(device)
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device
