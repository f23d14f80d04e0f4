"""Evaluation records: what `evaluate` measured, for reports, gates and whoever reads a version's history."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.artifacts import canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen

REPORT_FILE = "report.html"
TRAINING_REPORT_FILE = "report.html"
"""In the record of a training."""

SUMMARY_FILE = "evaluation.json"
DOCUMENTS_FILE = "documents.jsonl"


class Estimate(Frozen):
    """A measured number with its interval."""

    value: float
    low: float
    high: float
    confidence: float = Field(gt=0, lt=1)
    """Coverage of low..high."""

    def __str__(self) -> str:
        dash = "-" if self.low >= 0 else " to "
        return f"{self.value:.4g} ({self.confidence * 100:g} % CI {self.low:.4g}{dash}{self.high:.4g})"


class GateDecision(Frozen):
    """One offline threshold and how a candidate stands to it."""

    name: str
    passed: bool
    observed: Estimate
    limit: float
    """The interval's upper end must not exceed it."""

    evidence: str
    """What was measured on what, in one sentence."""

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "refused"
        return f"gate {self.name} {verdict}: observed {self.observed}, limit {self.limit:.4g}"


class DocumentRecord(Frozen):
    """One document of the validation split: negative log-likelihoods in nats, its end-of-text token included."""

    id: str
    num_tokens: int = Field(ge=1)
    num_bytes: int = Field(ge=1)
    """UTF-8 bytes of its text."""

    nll: float
    baseline_nll: float
    """Of the unigram baseline, on the same tokens."""

    champion_nll: float | None = None
    """Of the model in production, on the same text with its own tokenizer."""


class Sample(Frozen):
    """A prompt and one answer of the candidate."""

    prompt: str
    answer: str
    temperature: float


class EvaluationSummary(Frozen):
    """All that `evaluate` found out about a candidate."""

    num_documents: int = Field(ge=1)
    num_tokens: int = Field(ge=1)
    num_bytes: int = Field(ge=1)
    perplexity: Estimate
    bits_per_byte: Estimate
    baseline_perplexity: Estimate
    perplexity_ratio: Estimate
    """Perplexity over the baseline's, resampled together."""

    baseline_bits_per_byte: Estimate
    champion_bits_per_byte: Estimate | None = None
    champion_difference: Estimate | None = None
    """Bits per byte, candidate minus champion on the same documents: below zero, the candidate is better."""

    gates: tuple[GateDecision, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)


def write_documents(path: Path, records: tuple[DocumentRecord, ...]) -> None:
    """Write one line of JSON per document."""
    path.write_bytes(b"".join(canonical_json(record.model_dump(mode="json")) + b"\n" for record in records))


def read_documents(path: Path) -> tuple[DocumentRecord, ...]:
    """Return the per-document records of an evaluation.

    Raises:
        ArtifactCorrupt: when a line is not a record.
    """
    try:
        return tuple(DocumentRecord.model_validate_json(line) for line in path.read_bytes().splitlines())
    except ValidationError as error:
        raise ArtifactCorrupt(f"{path.name}: not evaluation records: {error}") from error
