"""How ranks share the work: one module per strategy behind one port, `ports.Strategy`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.spec import DdpConfig, TrainingConfig
from pipelines.training.strategies.ddp import DataParallel
from pipelines.training.strategies.ports import Strategy
from pipelines.training.strategies.single import SingleRank

__all__ = ["Strategy", "open_strategy"]


@contextlib.contextmanager
def open_strategy(config: TrainingConfig, rendezvous: Path) -> Iterator[Strategy]:
    """Join the other ranks that torchrun started, meeting them at a file, and share the work as the spec says.

    Args:
        config: of the training.
        rendezvous: file name that this attempt's ranks share and no earlier one used.
    """
    device = _device()
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1 and isinstance(config.strategy, DdpConfig):
        yield SingleRank(device)
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(str(rendezvous), world_size),
        rank=int(os.environ["RANK"]),
        world_size=world_size,
    )
    try:
        yield _make(config, device)
    finally:
        dist.destroy_process_group()


def _make(config: TrainingConfig, device: torch.device) -> Strategy:
    match config.strategy:
        case DdpConfig():
            return DataParallel(device)
        case other:
            raise NotImplementedError(other.kind)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device
