"""The train step with real torch: what it publishes, and what it reuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, ExitCode
from pipelines.replay import replay
from pipelines.settings import Settings
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.step import Receipt, RunInfo
from pipelines.training.determinism import Determinism
from pipelines.training.export import save_model
from pipelines.training.loss import NextTokenLoss
from pipelines.training.model import build_model
from pipelines.training.optimizer import build_optimizer
from pipelines.training.planning.facts import Ledger, Plan, Range, RankMemory, Sizes
from pipelines.training.precision import compute_dtype, processor_flags
from tests.training_case import DEADLINE_SECONDS, TEXTS, TrainingCase, make_case, wait_for

CPU = torch.device("cpu")
PLAN = Plan(
    total_tokens=60 * 6 * 16,
    sizes=Sizes(**dict.fromkeys(Sizes.model_fields, 1)),
    device=None,
    host=Ledger(name="host", needed=RankMemory(**dict.fromkeys(RankMemory.model_fields, 1)), available_bytes=1),
    checkpoint_bytes=1,
    calibration=None,
    seconds=Range(value=60, low=50, high=70),
    cost=None,
)
LONG = {"max_steps": 400, "learning_rate": 1e-3, "precision": "fp32"}
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 32}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainingCase:
    """Return a training of two ranks and a few steps, for which there is a plan."""
    case = make_case(tmp_path_factory.mktemp("train"), ranks=2, accumulation_steps=3, learning_rate=0.02, max_steps=60)
    PLAN.keep(case.store, case.spec.architecture, case.spec.training)
    return case


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


def test_the_record_holds_metrics_events_and_report(case: TrainingCase, receipt: Receipt) -> None:
    folder = folder_of(case, receipt, "training")
    readings = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [reading["step"] for reading in readings][-1] == receipt.result["steps"] == 60
    assert readings[-1]["loss"] == receipt.result["final_loss"] < readings[0]["loss"]
    assert readings[-1]["tokens"] == 60 * 6 * 16
    assert "<h1>tiny: training</h1>" in (folder / "report.html").read_text()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [reading["step"] for reading in readings]


def test_the_record_says_what_the_bits_depend_on(case: TrainingCase, receipt: Receipt) -> None:
    found = Determinism.model_validate_json((folder_of(case, receipt, "training") / "determinism.json").read_bytes())
    assert found.seed == case.spec.training.seed
    assert found.versions["torch"] == torch.__version__
    assert len(found.hardware) == 2
    assert found.flags["deterministic_algorithms"] == "True"
    assert found.inputs == {name: case.inputs[name]["digest"] for name in ("tokens", "tokenizer")}
    assert found.outputs == {"model": receipt.result["model"]["digest"]}


def test_the_receipt_compares_the_plan_with_the_outcome(case: TrainingCase, receipt: Receipt) -> None:
    planned = receipt.result["planned"]
    assert planned["planned_seconds"] == {"value": 60.0, "low": 50.0, "high": 70.0}
    assert 0 < planned["seconds"] <= receipt.seconds
    assert planned["memory_bytes"] > 100 * 2**20


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


def test_a_replay_gives_the_same_bits_whatever_became_of_the_source(case: TrainingCase, receipt: Receipt) -> None:
    spec = ArtifactRef.parse(case.spec_uri).model_dump()
    freeze = RunInfo(model="tiny", run_id="r1", task_id="freeze")
    case.store.put(freeze.receipt_uri, Receipt(**FROZEN, run=freeze, result={"spec": spec}).encode())
    case.source_file.write_text("")
    lines: list[str] = []
    difference = replay("r1", "", Settings(home=case.home, store=case.store.url), lines.append)
    assert (difference.weights.is_equal, difference.circumstances) == (True, ()), lines
    assert difference.losses.first_different_step is None
    assert len({path.split("/")[1] for path in case.store.list("checkpoints")}) == 1
    assert len(case.store.list("keys")) == 1


FROZEN = {"step": "freeze", "key": "k", "started": 1.0, "seconds": 1.0}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingCase, str]:
    """Return a training of two ranks that was told to end, and the checkpoint that its log names."""
    case = make_case(tmp_path_factory.mktemp("ended"), **LONG, ranks=2)
    with case.started(case.info()) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        step.terminate()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.RETRY, output
    named = re.search(r"set training\.resume_from to (checkpoints/\w+/step-\d+)", output)
    assert named, output
    return case, named[1]


def test_other_ranks_go_on_where_a_training_ended(ended: tuple[TrainingCase, str], tmp_path: Path) -> None:
    before, checkpoint = ended
    for name in ("on", "whole"):
        (tmp_path / name).mkdir()
    case = make_case(tmp_path / "on", store_url=before.store.url, **LONG, ranks=1, resume_from=checkpoint)
    status, output = case.run(case.info("r2"))
    assert status == ExitCode.DONE, output
    receipt = case.receipt(case.info("r2"))
    assert receipt.result["resumed_from_step"] == int(checkpoint[-8:]) > 0
    whole = make_case(tmp_path / "whole", **LONG, ranks=2)
    status, output = whole.run(whole.info())
    assert status == ExitCode.DONE, output
    together, alone = (
        safetensors.torch.load(each.weights(each.receipt(info)))
        for each, info in ((whole, whole.info()), (case, case.info("r2")))
    )
    for name, weight in together.items():
        torch.testing.assert_close(alone[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("differs", "message"),
    [
        pytest.param({"architecture": {"hidden_size": 32}}, "architecture.hidden_size is 32, the checkpoint .* has 16",
                     id="another-model"),
        pytest.param({"resume_from": "checkpoints/gone/step-00000004"},
                     "training.resume_from checkpoints/gone/step-00000004: no such checkpoint in .*; there is none of",
                     id="another-training"),
        pytest.param({"resume_from": "step-00000399"}, "no such checkpoint in .*; there are checkpoints/", id="step"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused(
    differs: dict[str, Any], message: str, ended: tuple[TrainingCase, str], tmp_path: Path
) -> None:
    before, checkpoint = ended
    if differs.get("resume_from", "").startswith("step-"):
        differs = {"resume_from": f"{checkpoint.rpartition('/')[0]}/{differs['resume_from']}"}
    case = make_case(tmp_path, store_url=before.store.url, **LONG, **{"resume_from": checkpoint, **differs})
    status, output = case.run(case.info("r4"))
    assert status == ExitCode.REFUSED, output
    assert re.search(message, output), output


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
    save_model(model, model.named_parameters(), tmp_path, tmp_path / "model")
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
