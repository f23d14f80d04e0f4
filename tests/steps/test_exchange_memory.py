"""What strategies take of the host's memory to exchange weights, against what a plan says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipelines.spec import DilocoConfig, ParameterServerConfig, TrainingConfig
from pipelines.training.planning.facts import Sizes
from pipelines.training.planning.memory import memory_per_rank
from tests.rank_processes import run_ranks

WIDTH = 3000
NUM_WEIGHTS = WIDTH * WIDTH

STEPS = 6


@pytest.mark.parametrize(
    ("ranks", "strategy"),
    [
        pytest.param(2, "diloco", id="diloco-of-two"),
        pytest.param(3, "diloco", id="diloco-of-three"),
        pytest.param(3, "parameter_server", id="parameter-server"),
    ],
)
def test_an_exchange_takes_what_a_plan_says(ranks: int, strategy: str, tmp_path: Path) -> None:
    run_ranks(ranks, exchange, ranks, strategy, tmp_path)
    taken = max(int(file.read_text()) for file in tmp_path.glob("peak-*"))
    sizes = Sizes(**dict.fromkeys(Sizes.model_fields, 0)).model_copy(update={"num_trained_parameters": NUM_WEIGHTS})
    _, host = memory_per_rank(sizes, TrainingConfig(ranks=ranks, batch_size=12, strategy=strategy), on_gpu=True)
    assert 0.7 < taken / host.exchange < 1.1


def exchange(rank: int, ranks: int, strategy: str, folder: Path) -> None:
    """Exchange weights as a rank on the host, and leave how much more memory than for the weights that took."""
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=dist.PrefixStore("ranks", store), rank=rank, world_size=ranks)
    module = nn.Linear(WIDTH, WIDTH, bias=False)
    dist.barrier()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    if strategy == "diloco":
        average(module, store)
    elif rank == 0:
        serve(module)
    else:
        work(module, rank)
    (folder / f"peak-{rank}").write_text(str(memory("VmHWM") - before))
    dist.barrier()
    os._exit(0)  # the groups end with the process


def average(module: nn.Module, store: dist.Store) -> None:
    from pipelines.training.strategies.diloco import Diloco

    config = DilocoConfig(inner_steps=2, overlap_steps=1)
    worker = Diloco(torch.device("cpu"), config, dist.PrefixStore("diloco", store))
    worker.wrap(module, torch.zeros(1))
    for step in range(1, STEPS + 1):
        worker.after_step(module, step)
    worker.finish(module)


def serve(module: nn.Module) -> None:
    from pipelines.training.strategies.parameter_server import Server

    server = Server(torch.device("cpu"), ParameterServerConfig())
    received = server.wrap(module, torch.zeros(1))
    for step in range(1, STEPS + 1):
        with server.micro_batch(module, last=True):
            received(torch.zeros(1))
        module.weight.grad = None
        server.after_step(module, step)


def work(module: nn.Module, rank: int) -> None:
    from pipelines.training.strategies.parameter_server import Worker

    worker = Worker(torch.device("cpu"))
    wrapped = worker.wrap(module, torch.zeros(1))
    for step in range(1, STEPS + 1):
        wrapped(torch.ones(1, WIDTH)).sum().backward()
        worker.clip(list(module.parameters()), 1.0)
        worker.after_step(module, step)


def memory(name: str) -> int:
    """Return what the kernel says of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
