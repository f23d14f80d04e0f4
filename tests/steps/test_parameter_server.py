"""How far a worker of a parameter server gets ahead of one that is slow; messages are handed over by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipelines.spec import ParameterServerConfig
from pipelines.training.strategies.parameter_server import Server

QUICK, SILENT = 1, 2
STEPS = 12


class Workers:
    """Two workers of which one sends as soon as it has weights, and the other only when the server has nobody else."""

    def __init__(self) -> None:
        self.sent = Counter[int]()
        self.answered = Counter[int]()
        self.leads: list[int] = []
        """How many gradients the quick one had sent more than the silent one, each time before that one spoke."""

    def recv(self, message: torch.Tensor, group: object) -> int:
        """Hand the server the next gradient; return whose it is."""
        is_waiting = self.sent[QUICK] > self.answered[QUICK]
        if is_waiting:
            self.leads.append(self.sent[QUICK] - self.sent[SILENT])
        worker = SILENT if is_waiting else QUICK
        message.fill_(0.0)
        self.sent[worker] += 1
        return worker

    def send(self, message: torch.Tensor, worker: int, group: object) -> None:
        """Take weights from the server."""
        self.answered[worker] += 1


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Stand in for the process group of a server and two workers."""
    workers = Workers()
    fakes: dict[str, Callable[..., object]] = {
        "get_rank": lambda: 0, "get_world_size": lambda: 3, "recv": workers.recv, "send": workers.send,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(dist, name, fake)
    return workers


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_a_worker_gets_as_far_ahead_as_the_bound_and_then_waits_until_the_slow_one_speaks(
    workers: Workers, max_staleness: int
) -> None:
    server = Server(torch.device("cpu"), ParameterServerConfig(max_staleness=max_staleness))
    model = nn.Linear(1, 1)
    server.wrap(model, torch.empty(0))
    for step in range(1, STEPS + 1):
        server.receive()
        server.after_step(model, step)
    assert set(workers.leads) == {max_staleness + 1}  # the last of them is the one that is not answered
    assert workers.sent[QUICK] - workers.sent[SILENT] in {max_staleness, max_staleness + 1}
    assert workers.sent.total() == 2 * STEPS


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_no_worker_gets_further_ahead_of_the_optimizer_than_the_bound(workers: Workers, max_staleness: int) -> None:
    server = Server(torch.device("cpu"), ParameterServerConfig(max_staleness=max_staleness))
    server.wrap(nn.Linear(1, 1), torch.empty(0))
    for applied in range(STEPS):
        server.receive()
        assert max(workers.answered[QUICK], workers.answered[SILENT]) <= applied + max_staleness
        server.after_step(nn.Linear(1, 1), applied + 1)
