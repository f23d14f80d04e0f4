"""Fully sharded and tensor parallel training: it learns what ddp learns, and each rank holds its part only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.errors import SpecError
from pipelines.spec import ArchitectureConfig, parse_spec
from pipelines.training.layers import decoder_layers, recompute_activations
from pipelines.training.loss import NextTokenLoss
from pipelines.training.model import build_model
from tests.sharding_case import Scenario, Trained, train_all

RANKS = 4
DDP = {"ranks": RANKS, "strategy": "ddp"}
FSDP = {"ranks": RANKS, "strategy": "fsdp"}
TENSOR = {"ranks": RANKS, "strategy": {"kind": "tensor", "tensor_ranks": 2}}  # 2 x 2
PAIR = {"ranks": 2, "max_steps": 2, "accumulation_steps": 1}

LLAMA = [
    Scenario("ddp", DDP),
    Scenario("fsdp", FSDP),
    Scenario(
        "fsdp-frugal", {"ranks": 2, "strategy": {"kind": "fsdp", "cpu_offload": True}, "activation_checkpointing": True}
    ),
    Scenario("fsdp-hasty", {"ranks": 2, "strategy": {"kind": "fsdp", "reshard_after_forward": False}}),
    Scenario("fsdp-bf16", {**FSDP, "ranks": 2, "precision": "bf16"}),
    Scenario("tensor", TENSOR),
    Scenario("tensor-on", TENSOR, goes_on="fsdp"),
    Scenario("fsdp-compiled", {"ranks": 2, "strategy": "fsdp", "compile": True}),
    Scenario("tensor-compiled", {**TENSOR, "ranks": 2, "compile": True}),
    Scenario("tensor-bf16", {**TENSOR, "ranks": 2, "precision": "bf16"}),
    Scenario(
        "refused",
        {"ranks": 3, "strategy": {"kind": "tensor", "tensor_ranks": 3}},
        {"hidden_size": 24, "num_heads": 3, "num_key_value_heads": 3, "intermediate_size": 33},
    ),
]
OTHERS = ("gpt_neox", "gpt2", "qwen3")
"""Architectures that are divided each in a way of its own."""

UNTIED = ("qwen2", "gpt_neox")


def scenarios_of(model_type: str) -> list[Scenario]:
    """Return an architecture's training by a tensor-parallel pair, and the one to compare it with."""
    architecture = {"model_type": model_type, "tie_embeddings": model_type not in UNTIED}
    return [
        Scenario(f"{strategy}-{model_type}", {**PAIR, "strategy": strategy}, architecture)
        for strategy in ("ddp", "tensor")
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train all of them."""
    others = [scenario for model_type in OTHERS for scenario in scenarios_of(model_type)]
    return train_all(tmp_path_factory.mktemp("sharding"), [*LLAMA, *others])


def assert_learnt_alike(trained: Trained, name: str, expected: str) -> None:
    found, wanted = trained.readings(name), trained.readings(expected)
    assert [reading.step for reading in found] == [reading.step for reading in wanted]
    for key in ("loss", "gradient_norm"):
        assert [getattr(each, key) for each in found] == pytest.approx(
            [getattr(each, key) for each in wanted], rel=1e-5
        )
    weights = trained.weights(expected)
    assert trained.weights(name).keys() == weights.keys()
    for key, weight in trained.weights(name).items():
        torch.testing.assert_close(
            weight, weights[key], rtol=1e-3, atol=1e-3, msg=lambda text, key=key: f"{key} {text}"
        )


@pytest.mark.parametrize("name", ["fsdp", "fsdp-frugal", "fsdp-hasty", "fsdp-compiled", "tensor", "tensor-compiled"])
def test_sharded_ranks_learn_what_ddp_learns(trained: Trained, name: str) -> None:
    assert_learnt_alike(trained, name, "ddp")


def test_a_checkpoint_of_fully_sharded_ranks_is_gone_on_with_by_tensor_parallel_ones(trained: Trained) -> None:
    assert trained.resumed_from("tensor-on") == 2
    assert_learnt_alike(trained, "tensor-on", "ddp")


@pytest.mark.parametrize("model_type", OTHERS)
def test_every_architecture_is_divided_soundly(trained: Trained, model_type: str) -> None:
    assert_learnt_alike(trained, f"tensor-{model_type}", f"ddp-{model_type}")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["mistral", "qwen2"])
def test_architectures_that_are_divided_as_llama_learn_what_ddp_learns(model_type: str, tmp_path: Path) -> None:
    trained = train_all(tmp_path, scenarios_of(model_type))
    assert_learnt_alike(trained, f"tensor-{model_type}", f"ddp-{model_type}")


@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_weights_and_optimizer_state_are_divided_among_the_ranks(trained: Trained, name: str) -> None:
    whole = trained.held_bytes("ddp", rank=0)
    parts = [trained.held_bytes(name, rank) for rank in range(RANKS)]
    for part in parts:
        # Norms are small, and the same within a group; the optimizer counts its steps on each rank.
        assert part["weights"] == pytest.approx(whole["weights"] / RANKS, rel=0.05)
        assert part["optimizer"] == pytest.approx(whole["optimizer"] / RANKS, rel=0.05)


@pytest.mark.parametrize("name", ["fsdp-bf16", "tensor-bf16"])
def test_products_of_narrow_numbers_change_losses_little(trained: Trained, name: str) -> None:
    found, wanted = ([reading.loss for reading in trained.readings(each)] for each in (name, "ddp"))
    assert found == pytest.approx(wanted, rel=5e-3)
    assert found != wanted


def test_a_vocabulary_that_cannot_be_divided_is_refused_before_the_first_step(trained: Trained) -> None:
    assert trained.refusal("refused") == (
        "BadInput: preparation.tokenizer.vocabulary_size 320 must be a multiple of training.strategy.tensor_ranks 3; "
        "try preparation.tokenizer.vocabulary_size 321, or strategy fsdp"
    )
    assert trained.readings("refused") == []


@pytest.mark.parametrize(
    ("architecture", "tensor_ranks", "message"),
    [
        pytest.param({"num_heads": 6, "num_key_value_heads": 6, "hidden_size": 96, "intermediate_size": 96}, 4,
                     "architecture.num_heads 6 .*tensor_ranks 4; try architecture.num_heads 8, or tensor_ranks 3",
                     id="heads"),
        pytest.param({"num_key_value_heads": 2}, 4,
                     "num_key_value_heads 2 .*tensor_ranks 4; try .*num_key_value_heads 4, or tensor_ranks 2",
                     id="key-value-heads"),
        pytest.param({"intermediate_size": 333}, 4,
                     "intermediate_size 333 .*tensor_ranks 4; try .*intermediate_size 336, or strategy fsdp",
                     id="feed-forward"),
    ],
)  # fmt: skip
def test_a_spec_whose_sizes_cannot_be_divided_is_refused(
    architecture: dict[str, int], tensor_ranks: int, message: str
) -> None:
    training = {"ranks": tensor_ranks, "strategy": {"kind": "tensor", "tensor_ranks": tensor_ranks}}
    with pytest.raises(SpecError, match=message):
        parse_spec({"name": "tiny", "architecture": architecture, "training": training})


def test_ranks_must_fill_their_groups() -> None:
    with pytest.raises(SpecError, match=re.escape("ranks 3 must be a multiple of strategy.tensor_ranks 2; try ranks")):
        parse_spec({"name": "tiny", "training": {"ranks": 3, "strategy": "tensor"}})


def layer_runs(model: nn.Module) -> int:
    """Return how often layers computed in one step."""
    runs: list[nn.Module] = []
    for layer in decoder_layers(model):
        attention = next(layer.children())
        attention.register_forward_hook(lambda module, *_: runs.append(module))
    NextTokenLoss(model)(torch.arange(1, 18).repeat(2, 1)).backward()
    return len(runs)


def test_activations_are_computed_again_and_gradients_are_the_same() -> None:
    architecture = ArchitectureConfig(hidden_size=16, intermediate_size=32, num_layers=2, context_length=32)
    kept, recomputed = (build_model(architecture, vocabulary_size=50, eos_id=0, seed=1) for _ in range(2))
    recompute_activations(recomputed)
    assert (layer_runs(kept), layer_runs(recomputed)) == (2, 4)
    for expected, found in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(expected.grad, found.grad)
