"""What looks after a training, on a GPU: memory that runs out, bad numbers, signs of life."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipelines.errors import OutOfMemory
from pipelines.spec import TrainingConfig
from pipelines.training.optimizer import build_optimizer
from pipelines.training.stability import Stability
from pipelines.training.strategies.single import SingleRank
from pipelines.training.supervision.heartbeat import LiveState, beating, read_heartbeats
from pipelines.training.supervision.out_of_memory import explain_refusal
from tests.training_case import wait_for

pytestmark = pytest.mark.gpu(1)


def test_memory_that_runs_out_is_explained_with_the_numbers() -> None:
    _, total = torch.cuda.mem_get_info()
    with pytest.raises(torch.OutOfMemoryError) as refused:
        torch.empty(2 * total, dtype=torch.uint8, device="cuda")
    error = explain_refusal(refused.value, TrainingConfig(batch_size=16))
    assert isinstance(error, OutOfMemory)
    assert f"free of {total / 2**30:.2f} GiB" in str(error)
    assert "try training.accumulation_steps 2: the same batch, 8 instead of 16 sequences at a time" in str(error)


def test_pinned_memory_that_runs_out_is_told_from_the_gpus() -> None:
    torch.ones(1, device="cuda")
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**45, dtype=torch.uint8, pin_memory=True)
    error = explain_refusal(refused.value, TrainingConfig(batch_size=16))
    assert isinstance(error, OutOfMemory)
    assert "training: out of pinned host memory (" in str(error)
    assert "try more memory for each machine (resources.train.memory)" in str(error)


def test_a_step_with_a_bad_gradient_changes_nothing_although_the_host_does_not_look() -> None:
    device = torch.device("cuda")
    layer = torch.nn.Linear(4, 4, device=device)
    config = TrainingConfig()
    optimizer = build_optimizer(layer, config, device)
    stability = Stability(config.stability, SingleRank(device), tell=lambda event: None)
    for norm, is_refused in ((1.0, False), (math.nan, True), (1.0, False)):
        layer(torch.ones(1, 4, device=device)).sum().backward()
        before = layer.weight.clone()
        torch.cuda.set_sync_debug_mode("error")
        assert stability.allows(optimizer, torch.ones((), device=device), torch.full((), norm, device=device))
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(before, layer.weight) == is_refused
    assert [flag.item() for flag in stability.take_refused()] == [0.0, 1.0, 0.0]


def test_a_heartbeat_tells_what_the_gpu_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    held = torch.ones(2**20, device="cuda")
    with beating(LiveState(), tmp_path):
        beat = wait_for(lambda: read_heartbeats(tmp_path).get(0), "a heartbeat", 10.0)
    assert beat.device is not None
    assert held.nbytes <= beat.device.allocated_bytes < beat.device.total_bytes
    assert beat.device.utilization is not None
