"""What `diloco` copies between a GPU and the host while training goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipelines.spec import DilocoConfig
from pipelines.training.strategies.diloco import Diloco
from pipelines.training.strategies.vectors import HostCopies

pytestmark = pytest.mark.gpu(1)

LONG_CYCLES = 2_000_000_000
"""About a second of a GPU."""


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the only rank."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def layer(device: torch.device) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(512, 512).to(device)


def trained(device: torch.device, overlap_steps: int) -> torch.Tensor:
    """Return the weights after rounds whose steps are equal everywhere."""
    model = layer(device)
    strategy = Diloco(device, DilocoConfig(inner_steps=4, overlap_steps=overlap_steps), dist.HashStore())
    strategy.wrap(model, torch.empty(0))
    for step in range(1, 15):
        with torch.no_grad():
            if device.type == "cuda":
                torch.cuda._sleep(LONG_CYCLES // 20)  # the host is far ahead of the GPU
            for parameter in model.parameters():
                parameter.mul_(1.0 - 2.0**-step)
        strategy.after_step(model, step)
    strategy.finish(model)
    return torch.cat([parameter.detach().cpu().reshape(-1) for parameter in model.parameters()])


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("overlap_steps", [0, 2, 4])
def test_a_gpu_ends_with_the_bits_of_a_cpu(overlap_steps: int) -> None:
    found, expected = (trained(torch.device(kind), overlap_steps) for kind in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_the_host_does_not_wait_for_copies_and_later_steps_do_not_change_them() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    model = layer(device)
    parameters = list(model.parameters())
    before = torch.cat([parameter.detach().cpu().reshape(-1) for parameter in parameters])
    copies = HostCopies(parameters, device)
    read, ones = copies.vector(), copies.vector().fill_(1.0)
    ended = torch.cuda.Event()
    copies.add(copies.vector())  # kernels are loaded at their first use, which may wait for others
    torch.zeros_like(parameters[0]).zero_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    torch.cuda._sleep(LONG_CYCLES)
    copies.read(read)
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    copies.add(ones)
    ended.record()
    is_host_ahead = not ended.query()
    torch.cuda.set_sync_debug_mode("default")
    copies.wait()
    assert is_host_ahead
    assert torch.equal(read, before)
    assert all(bool((parameter == 1.0).all()) for parameter in parameters)
