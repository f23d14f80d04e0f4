"""The evaluation step on tiny real models: measurements, report, gates, champions with another tokenizer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ArtifactCorrupt, BadInput, GateRefused
from pipelines.formats.records import DOCUMENTS_FILE, REPORT_FILE, SUMMARY_FILE, EvaluationSummary, read_documents
from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import EvaluationConfig, ModelSpec
from pipelines.step import RunInfo, StepContext
from pipelines.steps import evaluate
from pipelines.store import Store
from tests.steps.conftest import CORPUS, make_model

LENIENT = EvaluationConfig(
    max_perplexity_ratio=1e9,
    noninferiority_margin=1e9,
    bootstrap_resamples=200,
    sample_prompts=("Return",),
    sample_tokens=8,
)
TEXTS = [f"{CORPUS[index % 4]}{index}. " * (1 + index % 5) for index in range(12)]


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """A step's context on a store in a temporary folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    info = RunInfo(model="tiny", run_id="run", task_id="evaluate")
    return StepContext(Store(f"file://{tmp_path / 'store'}"), info, "key", scratch, tmp_path / "cache")


def publish_tokens(context: StepContext, model_folder: Path, folder: Path, texts: list[str] = TEXTS) -> ArtifactRef:
    """Write `texts` as both splits with the model's own tokenizer."""
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    documents = [EncodedDocument(f"doc-{index}", tokenizer.encode(text).ids, text) for index, text in enumerate(texts)]
    write_shards(folder, {"train": documents, "validation": documents}, vocabulary_size=384, eos_id=0)
    return context.publish("tokens", folder)


@pytest.fixture
def inputs(context: StepContext, tiny_model_folder: Path, tmp_path: Path) -> evaluate.Inputs:
    """The tiny model and its validation documents, without a champion."""
    return evaluate.Inputs(
        model=context.publish("model", tiny_model_folder),
        tokens=publish_tokens(context, tiny_model_folder, tmp_path / "tokens"),
    )


def summary_of(context: StepContext, report: ArtifactRef) -> EvaluationSummary:
    """Return the published summary."""
    return EvaluationSummary.model_validate_json(artifacts.read_file(context.store, report, SUMMARY_FILE))


def run(config: EvaluationConfig, inputs: evaluate.Inputs, context: StepContext) -> evaluate.Result:
    """Run the step with windows of 64 tokens."""
    return evaluate.run(evaluate.Config(evaluation=config, window_tokens=64), inputs, context)


def test_perplexity_is_that_of_the_model(
    context: StepContext, inputs: evaluate.Inputs, tiny_model_folder: Path
) -> None:
    result = run(LENIENT, inputs, context)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))
    records = {record.id: record for record in read_documents(context.fetch(result.report) / DOCUMENTS_FILE)}
    short = [(index, ids) for index, text in enumerate(TEXTS) if len(ids := [0, *tokenizer.encode(text).ids, 0]) <= 64]
    assert len(short) >= 2
    for index, tokens in short:
        ids = torch.tensor(tokens)
        with torch.inference_mode():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        expected = -logprobs[:-1].gather(1, ids[1:, None]).sum().item()
        assert records[f"doc-{index}"].nll == pytest.approx(expected, rel=1e-5)
    total = sum(record.nll for record in records.values()) / sum(record.num_tokens for record in records.values())
    assert result.perplexity == pytest.approx(math.exp(total))
    assert result.perplexity_low <= result.perplexity <= result.perplexity_high
    assert result.num_documents == len(TEXTS)


def test_equal_inputs_give_an_equal_report(context: StepContext, inputs: evaluate.Inputs, tmp_path: Path) -> None:
    first = run(LENIENT, inputs, context)
    again = StepContext(context.store, context.info, context.key, tmp_path / "again", context.cache)
    assert run(LENIENT, inputs, again).report == first.report


def test_the_baseline_knows_how_often_tokens_occur(context: StepContext, inputs: evaluate.Inputs) -> None:
    result = run(LENIENT, inputs, context)
    assert 10 < result.baseline_perplexity < 384 < result.perplexity


def test_a_refused_gate_names_its_evidence_after_the_report_is_published(
    context: StepContext, inputs: evaluate.Inputs
) -> None:
    strict = LENIENT.model_copy(update={"max_perplexity": 80.0})
    with pytest.raises(
        GateRefused, match=r"gate perplexity refused: observed .* \(95 % CI .*\), limit 80; "
    ) as refused:
        run(strict, inputs, context)
    uri = str(refused.value).rpartition("report: ")[2]
    report = ArtifactRef.parse(uri)
    verdicts = {gate.name: gate.passed for gate in summary_of(context, report).gates}
    assert verdicts == {"perplexity_ratio": True, "perplexity": False}
    page = artifacts.read_file(context.store, report, REPORT_FILE).decode()
    assert "refused" in page
    assert page.count("<svg") == 2


def test_a_champion_equal_to_the_candidate_differs_by_nothing(context: StepContext, inputs: evaluate.Inputs) -> None:
    result = run(LENIENT, inputs.model_copy(update={"champion": inputs.model}), context)
    assert result.champion == inputs.model
    assert result.champion_difference == pytest.approx(0, abs=1e-6)
    assert result.champion_difference_high == pytest.approx(0, abs=1e-6)


def test_a_champion_with_another_tokenizer_is_compared_by_bytes(
    context: StepContext, inputs: evaluate.Inputs, tmp_path: Path
) -> None:
    champion = context.publish(
        "model", make_model(tmp_path / "champion", seed=3, vocab_size=300, initializer_range=0.02)
    )
    result = run(LENIENT, inputs.model_copy(update={"champion": champion}), context)
    found = summary_of(context, result.report)
    assert found.champion_bits_per_byte is not None
    num_tokens = len(Tokenizer.from_file(str(tmp_path / "champion" / "tokenizer.json")).encode(TEXTS[0]).ids) + 1
    per_byte = num_tokens * math.log2(300) / len(TEXTS[0].encode())  # nearly uniform weights: log2(300) bits a token
    records = read_documents(context.fetch(result.report) / DOCUMENTS_FILE)
    assert (records[0].champion_nll or 0) / math.log(2) / records[0].num_bytes == pytest.approx(per_byte, rel=0.1)
    assert result.champion_difference == pytest.approx(
        found.bits_per_byte.value - found.champion_bits_per_byte.value, abs=1e-9
    )


def test_a_candidate_worse_than_the_champion_is_refused(
    context: StepContext, inputs: evaluate.Inputs, tmp_path: Path
) -> None:
    champion = context.publish("model", make_model(tmp_path / "champion", seed=3, initializer_range=0.02))
    config = LENIENT.model_copy(update={"noninferiority_margin": 0.02})
    with pytest.raises(GateRefused, match=r"gate noninferiority refused: observed .*, limit 0\.02; report"):
        run(config, inputs.model_copy(update={"champion": champion}), context)


def test_a_model_without_finite_likelihood_is_refused(
    context: StepContext, inputs: evaluate.Inputs, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[0] = math.nan
    model.save_pretrained(folder)
    broken = inputs.model_copy(update={"model": context.publish("model", folder)})
    with pytest.raises(GateRefused, match="gate finite refused: 12 of 12 documents have no finite likelihood"):
        run(LENIENT, broken, context)


def test_one_document_is_too_few_for_an_interval(
    context: StepContext, inputs: evaluate.Inputs, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tokens = publish_tokens(context, tiny_model_folder, tmp_path / "one", TEXTS[:1])
    with pytest.raises(BadInput, match="validation split: 1 documents; an interval needs at least 2"):
        run(LENIENT, inputs.model_copy(update={"tokens": tokens}), context)


def test_altered_weights_are_refused_by_name(context: StepContext, inputs: evaluate.Inputs) -> None:
    weights = Path(context.store.url.removeprefix("file://")) / inputs.model.uri / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors"):
        run(LENIENT, inputs, context)


def test_only_as_many_documents_as_asked_for_are_scored(context: StepContext, inputs: evaluate.Inputs) -> None:
    result = run(LENIENT.model_copy(update={"max_documents": 5}), inputs, context)
    assert result.num_documents == 5


def test_configuration_is_the_spec_s() -> None:
    spec = ModelSpec(name="tiny")
    config = evaluate.configure(spec)
    assert (config.evaluation, config.window_tokens) == (spec.evaluation, spec.training.sequence_length)


def test_result_is_small_json(context: StepContext, inputs: evaluate.Inputs) -> None:
    result = run(LENIENT, inputs, context)
    assert len(json.dumps(result.model_dump(mode="json"))) < 8000
    assert np.isfinite(result.bits_per_byte)
