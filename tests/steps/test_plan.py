"""What a plan says of a real model, against torch itself and against a training that really ran."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipelines import __main__ as cli
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.flops import flops_per_token, matmul_rate
from pipelines.training.model import build_model
from pipelines.training.planning.planner import make_plan
from pipelines.training.planning.sizes import measure_sizes
from pipelines.training.supervision.out_of_memory import MemoryGroup

VOCABULARY_SIZE, LENGTH = 512, 64
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_heads": 4, "context_length": 64}


def architecture(model_type: str, groups: int = 4) -> ArchitectureConfig:
    return ArchitectureConfig.model_validate({"model_type": model_type, "num_key_value_heads": groups, **SMALL})


def training(**settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"sequence_length": LENGTH, "batch_size": 4, "precision": "fp32", **settings})


@pytest.mark.parametrize(
    ("model_type", "groups"),
    [("llama", 2), ("qwen3", 2), ("gpt_neox", 4), ("gpt2", 4)],
)
def test_flops_are_those_that_torch_counts(model_type: str, groups: int) -> None:
    model = build_model(architecture(model_type, groups), vocabulary_size=VOCABULARY_SIZE, eos_id=0, seed=1)
    tokens = torch.zeros((2, LENGTH), dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    counted = counter.get_total_flops() / tokens.numel()
    assert flops_per_token(model, LENGTH) == pytest.approx(counted, rel=0.01)


def test_frozen_matrices_need_no_gradient_of_their_own() -> None:
    model = build_model(architecture("llama"), vocabulary_size=VOCABULARY_SIZE, eos_id=0, seed=1)
    head = model.get_output_embeddings().weight
    before = flops_per_token(model, LENGTH)
    head.requires_grad_(False)
    assert before - flops_per_token(model, LENGTH) == 2 * head.numel()


def test_sizes_are_found_without_computing() -> None:
    model = build_model(architecture("llama"), vocabulary_size=VOCABULARY_SIZE, eos_id=0, seed=1)
    found = measure_sizes(architecture("llama"), training(), VOCABULARY_SIZE, on_gpu=False)
    assert found.num_parameters == found.num_trained_parameters == model.num_parameters()
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert found.largest_layer_parameters == layer
    assert found.outer_parameters == model.num_parameters() - 2 * layer
    assert found.compute_bytes == 4


def test_activations_grow_with_the_batch_and_shrink_when_computed_again() -> None:
    one = measure_sizes(architecture("llama"), training(batch_size=4), VOCABULARY_SIZE, on_gpu=False).activation_bytes
    two = measure_sizes(architecture("llama"), training(batch_size=8), VOCABULARY_SIZE, on_gpu=False).activation_bytes
    again = training(batch_size=16, accumulation_steps=2, activation_checkpointing=True)
    assert two == pytest.approx(2 * one, rel=0.2)
    assert measure_sizes(architecture("llama"), again, VOCABULARY_SIZE, on_gpu=False).activation_bytes < 0.7 * two


def test_gpus_take_more_logits_at_once() -> None:
    vocabulary_size, tokens, cpu_chunk = 32_000, 4 * 512, 256
    large = architecture("llama").model_copy(update={"context_length": 512})
    settings = training(sequence_length=512)
    on_cpu, on_gpu = (
        measure_sizes(large, settings, vocabulary_size, on_gpu=on_gpu).activation_bytes for on_gpu in (False, True)
    )
    logits = (tokens - cpu_chunk) * vocabulary_size * 4
    assert logits <= on_gpu - on_cpu < 4 * logits


def test_each_shard_is_pinned_by_itself() -> None:
    whole = measure_sizes(architecture("llama"), training(), VOCABULARY_SIZE, on_gpu=True)
    shards = measure_sizes(architecture("llama"), training(ranks=2, strategy="fsdp"), VOCABULARY_SIZE, on_gpu=True)
    assert whole.num_parameters * 4 <= whole.pinned_shard_bytes == 2 * shards.pinned_shard_bytes


def test_adapters_are_what_is_trained() -> None:
    adapted = training(start={"weights": "somewhere", "lora": {"rank": 2}})
    found = measure_sizes(architecture("llama"), adapted, VOCABULARY_SIZE, on_gpu=False)
    whole = measure_sizes(architecture("llama"), training(), VOCABULARY_SIZE, on_gpu=False)
    assert 0 < found.num_trained_parameters < 0.1 * whole.num_trained_parameters
    assert found.flops_per_token < whole.flops_per_token


def test_the_matmul_rate_is_measured() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32) < 1e14


SPEC = {
    "architecture": {**SMALL, "num_key_value_heads": 4},
    "training": {"ranks": 2, "batch_size": 4, "sequence_length": LENGTH, "max_steps": 100, "price_per_hour": 7.2},
    "service": {"max_tokens": 32},
}


def plan(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> int:
    (folder / "tiny.yaml").write_text(json.dumps(SPEC))
    monkeypatch.setenv("SLIPWAY_HOME", str(folder))
    monkeypatch.setattr("sys.argv", ["python -m pipelines", "plan", str(folder / "tiny.yaml"), *options])
    return cli.main()


def test_a_plan_is_told_with_error_bars_and_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert plan(monkeypatch, tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    calibration, seconds = told["calibration"], told["seconds"]
    assert calibration["num_steps"] == 20
    assert 0 < calibration["step_seconds"]["low"] <= calibration["step_seconds"]["value"]
    assert calibration["step_seconds"]["value"] <= calibration["step_seconds"]["high"]
    assert seconds["low"] <= seconds["value"] <= seconds["high"]
    assert told["cost"]["value"] == pytest.approx(seconds["value"] / 500)
    assert 0.6 < calibration["peak_memory_bytes"] / sum(told["host"]["needed"].values()) < 1.2
    (kept,) = (tmp_path / "store" / "plans").iterdir()
    assert json.loads(kept.read_bytes()) == told


def test_what_cannot_fit_is_refused_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 2**20, "total": 2**20}))
    assert plan(monkeypatch, tmp_path) == 20
    told = capsys.readouterr()
    assert "TOO SMALL" in told.out
    assert "Calibration" not in told.out
    assert "error: training: a rank needs" in told.err
    assert "try training.accumulation_steps 2" in told.err
    assert not (tmp_path / "store").exists()


def test_a_machine_with_gpus_has_two_memories_and_its_ranks_share_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    gpu = SimpleNamespace(name="a GPU", total_memory=80 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: gpu)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * 2**30, total=96 * 2**30))
    monkeypatch.setattr(MemoryGroup, "limit_bytes", lambda _: 48 * 2**30)
    for name, value in {"SLIPWAY_NODES": "2", "JOB_COMPLETION_INDEX": "0", "SLIPWAY_NODE_ADDRESS": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    diloco = training(ranks=4, strategy="diloco")
    made = make_plan(architecture("llama"), diloco, VOCABULARY_SIZE, is_calibrated=False)
    assert made.device is not None
    assert (made.device.name, made.device.available_bytes) == ("a GPU", 80 * 2**30 - 600 * 2**20)
    assert made.device.needed.exchange == 0
    assert made.host.available_bytes == 24 * 2**30
    assert made.host.needed.exchange == 8 * 4 * made.sizes.num_parameters
    assert made.fits
