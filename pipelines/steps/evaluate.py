"""Measure the model on held-out documents, publish the report, and refuse what does not pass its gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.artifacts import ArtifactRef, canonical_json
from pipelines.evaluation.baseline import fit_unigram
from pipelines.evaluation.gates import decide, require_passed
from pipelines.evaluation.likelihood import document_nll, encode_documents, separator_of
from pipelines.evaluation.measure import summarise
from pipelines.evaluation.report import render
from pipelines.evaluation.samples import draw_samples
from pipelines.formats.records import (
    DOCUMENTS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    DocumentRecord,
    EvaluationSummary,
    GateDecision,
    write_documents,
)
from pipelines.formats.shards import TokenShards
from pipelines.spec import EvaluationConfig, Frozen, ModelSpec
from pipelines.step import StepContext

if TYPE_CHECKING:
    from pipelines.inference.engine import Engine

LIBRARIES: tuple[str, ...] = ("torch", "transformers", "tokenizers", "numpy", "matplotlib", "jinja2")


class Config(Frozen):
    """Gates and measurements, and the context in which the model was trained."""

    evaluation: EvaluationConfig
    window_tokens: int = Field(ge=2)
    """Longest context that is scored: the length of the training sequences."""


class Inputs(Frozen):
    """What is measured, on what, against what."""

    model: ArtifactRef
    tokens: ArtifactRef
    champion: ArtifactRef | None = None
    """Model in production, as the driver found it in the ledger."""


class Result(Frozen):
    """The evaluation in brief; everything is in the report."""

    report: ArtifactRef
    num_documents: int
    perplexity: float
    perplexity_low: float
    perplexity_high: float
    baseline_perplexity: float
    bits_per_byte: float
    champion: ArtifactRef | None
    """The model that was in production when this was measured."""

    champion_difference: float | None
    """Bits per byte, candidate minus champion; with its interval below. None without a champion."""

    champion_difference_low: float | None
    champion_difference_high: float | None
    gates: tuple[GateDecision, ...]
    passed: bool


def configure(spec: ModelSpec) -> Config:
    """Take the gates and the length of training sequences."""
    return Config(evaluation=spec.evaluation, window_tokens=spec.training.sequence_length)


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Measure, publish the report, then judge: the report of a refused model is there to read.

    Raises:
        GateRefused: when a gate does not pass; the message has its evidence and the report's uri.
        BadInput: when the validation split is too small for an interval.
    """
    from pipelines.inference.engine import Engine

    shards = TokenShards.open(context.fetch(inputs.tokens))
    with Engine.load(context.fetch(inputs.model)) as engine:
        records = _measure(engine, shards, config, context)
        samples = draw_samples(engine, config.evaluation)
    if inputs.champion is not None:
        with Engine.load(context.fetch(inputs.champion)) as champion:
            records = _add_champion(records, champion, shards, config)
    summary = summarise(records, config.evaluation)
    summary = summary.model_copy(update={"samples": samples, "gates": decide(summary, config.evaluation)})
    report = _publish(summary, records, inputs, context)
    require_passed(summary.gates, report.uri)
    return _result(summary, report, inputs.champion)


def _measure(engine: Engine, shards: TokenShards, config: Config, context: StepContext) -> tuple[DocumentRecord, ...]:
    """Return each validation document's likelihood under the model and the unigram baseline."""
    split = shards.split("validation")
    documents = shards.documents("validation")[: config.evaluation.max_documents or None]
    tokens = [split.document(index).astype("int64") for index in range(len(documents))]
    unigram = fit_unigram(shards.split("train"), shards.vocabulary_size)
    nll = document_nll(
        engine,
        tokens,
        separator=shards.eos_id,
        window_tokens=config.window_tokens,
        report=lambda done, total: context.report(windows=done, of=total),
    )
    return tuple(
        DocumentRecord(
            id=document.id,
            num_tokens=len(ids),
            num_bytes=len(document.text.encode()),
            nll=float(value),
            baseline_nll=float(-unigram[ids].sum()),
        )
        for document, ids, value in zip(documents, tokens, nll, strict=True)
    )


def _add_champion(
    records: tuple[DocumentRecord, ...], champion: Engine, shards: TokenShards, config: Config
) -> tuple[DocumentRecord, ...]:
    """Return the records with the champion's likelihood of the same texts, in its own tokens."""
    texts = [document.text for document in shards.documents("validation")[: len(records)]]
    separator = separator_of(champion)
    tokens = encode_documents(champion, texts, separator)
    nll = document_nll(champion, tokens, separator=separator, window_tokens=config.window_tokens)
    return tuple(
        record.model_copy(update={"champion_nll": float(value)}) for record, value in zip(records, nll, strict=True)
    )


def _publish(
    summary: EvaluationSummary, records: tuple[DocumentRecord, ...], inputs: Inputs, context: StepContext
) -> ArtifactRef:
    folder = context.scratch / "evaluation"
    folder.mkdir(parents=True)
    refs = {"model": inputs.model, "tokens": inputs.tokens, "champion": inputs.champion}
    known = {name: ref for name, ref in refs.items() if ref is not None}
    digests = {name: ref.digest for name, ref in known.items()}
    (folder / REPORT_FILE).write_text(render(context.model, summary, records, digests), "utf-8")
    (folder / SUMMARY_FILE).write_bytes(canonical_json(summary.model_dump(mode="json")))
    write_documents(folder / DOCUMENTS_FILE, records)
    return context.publish("evaluation", folder, known.values())


def _result(summary: EvaluationSummary, report: ArtifactRef, champion: ArtifactRef | None) -> Result:
    difference = summary.champion_difference
    return Result(
        report=report,
        num_documents=summary.num_documents,
        perplexity=summary.perplexity.value,
        perplexity_low=summary.perplexity.low,
        perplexity_high=summary.perplexity.high,
        baseline_perplexity=summary.baseline_perplexity.value,
        bits_per_byte=summary.bits_per_byte.value,
        champion=champion,
        champion_difference=difference.value if difference else None,
        champion_difference_low=difference.low if difference else None,
        champion_difference_high=difference.high if difference else None,
        gates=summary.gates,
        passed=summary.passed,
    )
