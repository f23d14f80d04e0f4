"""A training small enough to be checkpointed in a moment, on one rank or on several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pipelines.store import Store
from pipelines.training.checkpoints import rows
from pipelines.training.checkpoints.checkpointer import Checkpointer
from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.checkpoints.shard import local
from pipelines.training.checkpoints.state import TrainingState
from pipelines.training.strategies.ranks import Ranks
from pipelines.training.strategies.single import SingleRank, Whole
from tests.own_memory import watched

CPU = torch.device("cpu")
FOLDER = "checkpoints/key"
MODEL = {"architecture.hidden_size": 7}
WEIGHED = ("whole", "sharded")
"""How ranks hold the model whose resume is weighed."""


class Net(nn.Module):
    """Matrices whose rows do not divide by two ranks, one that has fewer rows than ranks, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(7, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return one number per row."""
        return self.last(self.drop(self.first(inputs)))


class LargeNet(nn.Sequential):
    """101 MB of weights in matrices of 4 MB."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 1024), *(nn.Linear(1024, 1024) for _ in range(24)))


class SomeRanks(Ranks, Whole):
    """Ranks that hold one model together, or each its own."""

    def __init__(self, *, replicas: bool = False) -> None:
        super().__init__(CPU)
        self.data_rank, self.data_world_size = self.rank, self.world_size
        self.replica = str(self.rank) if replicas else ""

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        """Nothing is exchanged."""
        return module

    def micro_batch(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Nothing is exchanged."""
        raise NotImplementedError


class Remembering(SingleRank):
    """A strategy with a memory."""

    def __init__(self, memory: float = 0.0) -> None:
        super().__init__(CPU)
        self.memory = torch.full((3,), memory)
        self.was_told: Mapping[str, torch.Tensor] | None = None

    def state(self) -> Mapping[str, torch.Tensor]:
        """Return the memory."""
        return {"outer/memory": self.memory}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take it back."""
        self.was_told = state


class Case:
    """A model, its optimizer and its checkpoints."""

    def __init__(
        self,
        store: Store,
        strategy: SingleRank | SomeRanks,
        *,
        seed: int = 1,
        sharded: bool = False,
        kind: str = "ddp",
        model: Mapping[str, int] = MODEL,
        net: type[nn.Module] = Net,
    ) -> None:
        torch.manual_seed(seed)
        self.net = net().to(strategy.device)
        if sharded:
            fully_shard(self.net)
        self.strategy = strategy
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1, fused=True)
        self.folder = CheckpointFolder(store, FOLDER)
        self.checkpointer = Checkpointer(
            self.folder, TrainingState(self.net, self.optimizer, strategy), strategy, kind=kind, model=model, keep=3
        )

    def step(self) -> None:
        """Learn from random numbers."""
        self.net(torch.randn(4, 5, device=self.strategy.device)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, step: int) -> None:
        """Write a checkpoint, and wait for it."""
        self.checkpointer.save(step, progress={"left_out": [step]}, metrics=b"metrics %d" % step)
        self.checkpointer.wait()

    def everything(self) -> dict[str, torch.Tensor]:
        """Return all weights and moments, whole; every rank must call it."""
        found = {name: _whole(parameter) for name, parameter in self.net.named_parameters()}
        for name, parameter in self.net.named_parameters():
            for entry, value in self.optimizer.state[parameter].items():
                found[f"{name}/{entry}"] = _whole(value)
        return found


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def run_rank(rank: int, folder: Path) -> None:
    """Be one of two ranks: save in each way, restore in each, and leave what this rank then held in `folder`."""
    rows._BLOCK_BYTES = 2 * 5 * 4  # two rows of the first matrix
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "rendezvous"), 2), rank=rank, world_size=2)
    stores = {name: Store(f"file://{folder / name}") for name in ("whole", "sharded", "replicas", "single")}
    held = {
        "whole": saved_by(stores["whole"], SomeRanks()),
        "sharded": saved_by(stores["sharded"], SomeRanks(), sharded=True),
        "replicas": saved_by(stores["replicas"], SomeRanks(replicas=True), seed=10 + rank),
        "replicas again": resumed(stores["replicas"], SomeRanks(replicas=True)),
        "whole as shards": resumed(stores["whole"], SomeRanks(), sharded=True),
        "single as shards": resumed(stores["single"], SomeRanks(), sharded=True),
        "single as replicas": resumed(stores["single"], SomeRanks(replicas=True)),
    }
    tensors = {f"{name}:{key}": tensor for name, case in held.items() for key, tensor in case.everything().items()}
    safetensors.torch.save_file(tensors, folder / f"rank-{rank}.safetensors")
    (folder / f"rank-{rank}.txt").write_text(told_after_damage(held["sharded"], folder), encoding="utf-8")
    held.clear()  # a process group that outlives the next line may hang when it is freed
    dist.destroy_process_group()


def saved_by(
    store: Store, strategy: SomeRanks, *, sharded: bool = False, seed: int = 1, net: type[nn.Module] = Net
) -> Case:
    """Take a step, and save it."""
    case = Case(store, strategy, sharded=sharded, seed=seed, net=net)
    case.step()
    case.save(1)
    return case


def resumed(store: Store, strategy: SomeRanks, *, sharded: bool = False) -> Case:
    """Go on from what is in a store."""
    case = Case(store, strategy, sharded=sharded, seed=2)
    assert case.checkpointer.resume().step == 1
    return case


def told_after_damage(case: Case, folder: Path) -> str:
    """Damage what only the second rank reads of a newer checkpoint; return where the ranks then go on, and why."""
    case.step()
    case.save(2)
    if case.strategy.rank == 0:
        flip_a_byte(folder / "sharded" / FOLDER / "step-00000002" / "shard-00001.safetensors", -1)
    dist.barrier()
    found = case.checkpointer.resume()
    return f"{found.step} {found.damages}"


def weigh_rank(rank: int, folder: Path) -> None:
    """Be one of two ranks that resume a large model; leave by how much memory grew, as shares of what it holds then."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "rendezvous"), 2), rank=rank, world_size=2)
    found = {name: _weighed(Store(f"file://{folder / name}"), sharded=name == "sharded") for name in WEIGHED}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def _weighed(store: Store, *, sharded: bool) -> dict[str, float]:
    """Resume a fresh training, then the same one again, when its optimizer has all its memory."""
    saved_by(store, SomeRanks(), sharded=sharded, net=LargeNet)
    case = Case(store, SomeRanks(), sharded=sharded, net=LargeNet)
    growths = {}
    for name in ("fresh", "again"):
        with watched() as growth:
            assert case.checkpointer.resume().step == 1
        growths[name] = growth[0]
    moments = [value for state in case.optimizer.state.values() for value in state.values()]
    whole = sum(local(tensor).nbytes for tensor in [*case.net.parameters(), *moments])
    return {name: growth / whole for name, growth in growths.items()}


def flip_a_byte(file: Path, position: int) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
