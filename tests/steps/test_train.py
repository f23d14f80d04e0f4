"""The train step with real torch: what it publishes, and what it reuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.errors import BadInput, ExitCode
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.step import Receipt
from pipelines.training import state
from pipelines.training.model import NextTokenLoss, build_model, save_model
from pipelines.training.optimizer import build_optimizer
from pipelines.training.precision import compute_dtype, processor_flags
from tests.training_case import TEXTS, TrainingCase, make_case

CPU = torch.device("cpu")
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 32}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainingCase:
    """Return a training of two ranks and a few steps."""
    return make_case(tmp_path_factory.mktemp("train"), ranks=2, accumulation_steps=3, learning_rate=0.02, max_steps=60)


@pytest.fixture(scope="module")
def receipt(case: TrainingCase) -> Receipt:
    """Train once."""
    status, output = case.run(case.info())
    assert status == ExitCode.DONE, output
    return case.receipt(case.info())


def folder_of(case: TrainingCase, receipt: Receipt, kind: str) -> Path:
    folder = case.store.local_path(f"artifacts/{kind}/{receipt.result[kind]['digest']}")
    assert folder is not None
    return folder


def test_the_model_loads_as_any_hugging_face_model_and_has_learnt(case: TrainingCase, receipt: Receipt) -> None:
    folder = folder_of(case, receipt, "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    batch = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    loss = model(input_ids=batch, labels=batch).loss.item()
    assert loss < 0.8 * torch.log(torch.tensor(model.config.vocab_size)).item()
    assert receipt.result["num_parameters"] == model.num_parameters()
    assert model.config.eos_token_id == tokenizer.eos_token_id == 0
    assert {file.name for file in folder.iterdir()} == {
        "config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def test_the_record_holds_metrics_events_and_plots(case: TrainingCase, receipt: Receipt) -> None:
    folder = folder_of(case, receipt, "training")
    readings = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [reading["step"] for reading in readings][-1] == receipt.result["steps"] == 60
    assert readings[-1]["loss"] == receipt.result["final_loss"] < readings[0]["loss"]
    assert readings[-1]["tokens"] == 60 * 6 * 16
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / "training.svg").read_bytes()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [reading["step"] for reading in readings]


def test_progress_is_in_the_store(case: TrainingCase, receipt: Receipt) -> None:
    progress = json.loads(case.store.read(case.info().progress_uri) or b"")
    assert progress["step"] == progress["max_steps"] == 60
    assert {"loss", "tokens_per_second", "eta_seconds", "seconds"} <= progress.keys()


def test_an_unchanged_second_run_trains_nothing(case: TrainingCase, receipt: Receipt) -> None:
    status, output = case.run(case.info("r2"))
    assert status == ExitCode.DONE
    assert "reused from run r1" in output
    again = case.receipt(case.info("r2"))
    assert (again.reused, again.result) == (True, receipt.result)


def test_a_forced_second_training_gives_the_same_bits(case: TrainingCase, receipt: Receipt) -> None:
    status, output = case.run(case.info("r3", force=True))
    assert status == ExitCode.DONE, output
    forced = case.receipt(case.info("r3", force=True))
    assert forced.reused is False
    assert forced.result["model"] == receipt.result["model"]


def test_a_source_that_changed_after_validation_stops_the_run(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    with case.source_file.open("a") as file:
        file.write('{"id": "new", "text": "smuggled in"}\n')
    status, output = case.run(case.info())
    assert status == ExitCode.REFUSED
    assert "error: data.source" in output
    assert "changed after it was validated" in output
    assert "Traceback" not in output


def test_more_tokens_per_sequence_than_there_are_is_refused_plainly(tmp_path: Path) -> None:
    case = make_case(tmp_path, architecture={"context_length": 65536}, sequence_length=60000)
    status, output = case.run(case.info())
    assert status == ExitCode.REFUSED
    assert "error: training.sequence_length 60000 needs at least 60001 tokens" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("tie_embeddings", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"])
def test_every_architecture_learns_and_loads(model_type: str, tie_embeddings: bool, tmp_path: Path) -> None:
    groups = 2 if model_type in ("gpt2", "gpt_neox") else 1
    architecture = ArchitectureConfig.model_validate(
        {"model_type": model_type, "tie_embeddings": tie_embeddings, "num_key_value_heads": groups, **TINY}
    )
    model = build_model(architecture, vocabulary_size=50, eos_id=0, seed=1)
    optimizer = build_optimizer(model, TrainingConfig(learning_rate=0.01), CPU)
    batch = torch.arange(1, 18).repeat(2, 1)
    losses = []
    for _ in range(5):
        loss = NextTokenLoss(model)(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    save_model(model, model.state_dict(), tmp_path, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(input_ids=batch).logits, model.eval()(input_ids=batch).logits)


def test_grouped_query_attention_is_refused_where_the_family_has_none() -> None:
    architecture = ArchitectureConfig.model_validate({"model_type": "gpt2", "num_key_value_heads": 1, **TINY})
    with pytest.raises(BadInput, match="num_key_value_heads 1 must equal num_heads 2 for gpt2"):
        build_model(architecture, vocabulary_size=50, eos_id=0, seed=1)


def test_weight_decay_spares_norms_and_biases() -> None:
    architecture = ArchitectureConfig.model_validate({"model_type": "gpt2", "num_key_value_heads": 2, **TINY})
    model = build_model(architecture, vocabulary_size=50, eos_id=0, seed=1)
    decayed, spared = build_optimizer(model, TrainingConfig(weight_decay=0.3), CPU).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert {parameter.dim() for parameter in spared["params"]} == {1}
    assert sum(map(len, (decayed["params"], spared["params"]))) == len(list(model.parameters()))


@pytest.mark.parametrize("rank", [0, 1])
def test_training_state_comes_back_exactly(rank: int) -> None:
    architecture = ArchitectureConfig.model_validate({"num_key_value_heads": 2, **TINY})

    def fresh() -> tuple[torch.nn.Module, torch.optim.AdamW]:
        model = build_model(architecture, vocabulary_size=50, eos_id=0, seed=1)
        return model, build_optimizer(model, TrainingConfig(), CPU)

    def step(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
        NextTokenLoss(model)(torch.randint(0, 50, (2, 17))).backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = fresh()
    step(model, optimizer)
    rows = [torch.zeros_like(state.generators(CPU)), torch.zeros_like(state.generators(CPU))]
    rows[rank] = state.generators(CPU)
    files = state.capture(model, optimizer, torch.stack(rows), b"metrics")
    step(model, optimizer)
    resumed, resumed_optimizer = fresh()
    state.restore(files, resumed, resumed_optimizer, rank)
    step(resumed, resumed_optimizer)
    assert files[state.METRICS] == b"metrics"
    for (name, expected), (_, found) in zip(model.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        pytest.param("processor\t: 0\nflags\t\t: fpu avx512_bf16 sse\n", "avx512_bf16", id="x86"),
        pytest.param("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bf16", id="arm"),
    ],
)
def test_the_processor_says_what_it_computes_natively(text: str, flag: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert flag in processor_flags(tmp_path / "cpuinfo")
    assert processor_flags(tmp_path / "absent") == frozenset()


def test_a_precision_that_was_asked_for_is_used() -> None:
    assert compute_dtype("fp32", CPU) is torch.float32
    assert compute_dtype("bf16", CPU) is torch.bfloat16
