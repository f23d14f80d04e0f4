"""The training loop on a GPU: the host runs ahead of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.loop_case import open_training, write_tokens

WARM_UP_STEPS, STEPS = 3, 8


@pytest.mark.gpu(1)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_a_step_makes_the_host_wait_for_nothing(precision: str, accumulation_steps: int, tmp_path: Path) -> None:
    training = open_training(
        write_tokens(tmp_path / "tokens"),
        tmp_path,
        "cuda:0",
        precision=precision,
        accumulation_steps=accumulation_steps,
    )
    batches = training._loader.batches(range(STEPS))
    for _ in range(WARM_UP_STEPS):
        training._step(next(batches), rate=0.01)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            training._step(batch, rate=0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu(1)
def test_the_same_steps_are_taken_as_on_a_cpu(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens")
    weights = []
    for device in ("cpu", "cuda:0"):
        training = open_training(tokens, tmp_path / device.replace(":", ""), device, max_steps=3)
        assert training.run()
        weights.append([parameter.detach().cpu() for parameter in training.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
