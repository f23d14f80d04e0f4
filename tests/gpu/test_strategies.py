"""Every strategy on GPUs, through the step as an operator starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ExitCode
from pipelines.training.metrics import read_metrics
from tests.training_case import TrainingCase, make_case

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "num_key_value_heads": 2}
STEPS = 40


def case_of(folder: Path, **training: Any) -> TrainingCase:
    return make_case(folder, architecture=SIZES, max_steps=STEPS, learning_rate=0.01, batch_size=8, **training)


def losses(case: TrainingCase) -> list[float]:
    """Train, and return what the loss was at each reading."""
    status, output = case.run(case.info())
    assert status == ExitCode.DONE, output
    digest = case.receipt(case.info()).result["training"]["digest"]
    record = case.store.local_path(f"artifacts/training/{digest}/metrics.jsonl")
    assert record is not None
    return [reading.loss for reading in read_metrics(record)]


@pytest.mark.gpu(1)
@pytest.mark.parametrize(
    "training",
    [
        pytest.param({"strategy": "ddp"}, id="ddp"),
        pytest.param({"strategy": "ddp", "precision": "fp16", "compile": True}, id="ddp-fp16-compiled"),
        pytest.param({"strategy": "fsdp", "activation_checkpointing": True}, id="fsdp"),
        pytest.param({"strategy": {"kind": "fsdp", "cpu_offload": True}}, id="fsdp-offloaded"),
        pytest.param({"strategy": {"kind": "diloco", "inner_steps": 5, "overlap_steps": 2}}, id="diloco"),
    ],
)
def test_a_strategy_learns_on_one_gpu(training: dict[str, Any], tmp_path: Path) -> None:
    found = losses(case_of(tmp_path, ranks=1, **training))
    assert found[-1] < 0.7 * found[0]


@pytest.mark.parametrize(
    ("ranks", "training"),
    [
        pytest.param(2, {"strategy": "ddp"}, id="ddp", marks=pytest.mark.gpu(2)),
        pytest.param(2, {"strategy": "fsdp"}, id="fsdp", marks=pytest.mark.gpu(2)),
        pytest.param(2, {"strategy": "tensor"}, id="tensor", marks=pytest.mark.gpu(2)),
        pytest.param(4, {"strategy": "tensor"}, id="tensor-and-fsdp", marks=pytest.mark.gpu(4)),
        pytest.param(2, {"strategy": "diloco"}, id="diloco", marks=pytest.mark.gpu(2)),
        pytest.param(2, {"strategy": "parameter_server"}, id="parameter-server", marks=pytest.mark.gpu(2)),
    ],
)
def test_a_strategy_learns_on_several_gpus(ranks: int, training: dict[str, Any], tmp_path: Path) -> None:
    found = losses(case_of(tmp_path, ranks=ranks, **training))
    assert found[-1] < 0.7 * found[0]
