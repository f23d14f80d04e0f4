"""How ranks share the work: one module per strategy behind one port, `ports.Strategy`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous as meet

from pipelines.errors import BadInput
from pipelines.spec import DdpConfig, DilocoConfig, FsdpConfig, ParameterServerConfig, TensorConfig, TrainingConfig
from pipelines.training.precision import compute_dtype
from pipelines.training.strategies.ddp import DataParallel
from pipelines.training.strategies.diloco import Diloco
from pipelines.training.strategies.fsdp import FullyShardedDataParallel
from pipelines.training.strategies.parameter_server import SERVER, Server, Worker
from pipelines.training.strategies.ports import Strategy
from pipelines.training.strategies.single import SingleRank
from pipelines.training.strategies.tensor import TensorParallel

__all__ = ["Strategy", "open_strategy"]


_DRIVER = Path("/dev/nvidiactl")
"""What a machine, or a container, has when it was given GPUs of NVIDIA."""


@contextlib.contextmanager
def open_strategy(config: TrainingConfig, rendezvous: Path | None) -> Iterator[Strategy]:
    """Join the other ranks that torchrun started, and share the work as the spec says.

    Args:
        config: of the training.
        rendezvous: file at which this attempt's ranks meet, used by no earlier one; None: they are on several
            machines, and meet where torchrun says.
    """
    device = _device()
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1 and isinstance(config.strategy, DdpConfig):
        yield SingleRank(device)
        return
    store = _open_store(rendezvous, world_size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",  # shards that are kept on the host meet there
        store=dist.PrefixStore("ranks", store),
        rank=int(os.environ["RANK"]),
        world_size=world_size,
    )
    try:
        yield _make(config, device, store)
    finally:
        dist.destroy_process_group()


def _open_store(rendezvous: Path | None, world_size: int) -> dist.Store:
    """Return what all ranks of this attempt read and write."""
    if rendezvous is not None:
        return dist.FileStore(str(rendezvous), world_size)
    store, _, _ = next(meet("env://"))
    return store


def _make(config: TrainingConfig, device: torch.device, store: dist.Store) -> Strategy:
    match config.strategy:
        case DdpConfig():
            return DataParallel(device)
        case DilocoConfig() as diloco:
            return Diloco(device, diloco, dist.PrefixStore("diloco", store))
        case ParameterServerConfig() as server:
            return Server(device, server) if int(os.environ["RANK"]) == SERVER else Worker(device)
        case FsdpConfig() as fsdp:
            return FullyShardedDataParallel(device, fsdp, compute_dtype(config.precision, device))
        case TensorConfig() as tensor:
            return TensorParallel(device, tensor, compute_dtype(config.precision, device))


def _device() -> torch.device:
    if not torch.cuda.is_available():
        if _DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
            raise BadInput(
                f"this machine has GPUs ({_DRIVER} is there), and torch {torch.__version__} cannot use them: install a "
                "build of torch with CUDA and a driver that is new enough for it (`python -m torch.utils.collect_env` "
                "tells both), or set CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
            )
        return torch.device("cpu")
    ranks, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if ranks > devices:
        raise BadInput(
            f"training.ranks: {ranks} on this machine, which has {devices} GPUs; each rank needs one of its own: "
            f"try {devices} per machine, or more machines"
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device
