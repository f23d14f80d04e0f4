"""Offline gates: a candidate passes on evidence, so it is the unfavourable end of an interval that must hold."""

from __future__ import annotations

from pipelines.errors import GateRefused
from pipelines.formats.records import Estimate, EvaluationSummary, GateDecision
from pipelines.spec import EvaluationConfig


def decide(summary: EvaluationSummary, config: EvaluationConfig) -> tuple[GateDecision, ...]:
    """Return the decision of every gate that applies: without a champion, only the absolute ones."""
    data = (
        f"{summary.num_documents:,} validation documents, {summary.num_tokens:,} tokens; interval from "
        f"{config.bootstrap_resamples:,} resamples of documents"
    )
    gates = [
        _gate(
            "perplexity_ratio",
            summary.perplexity_ratio,
            config.max_perplexity_ratio,
            f"perplexity over the unigram baseline's ({summary.baseline_perplexity.value:.4g}) on {data}",
        )
    ]
    if config.max_perplexity is not None:
        gates.append(_gate("perplexity", summary.perplexity, config.max_perplexity, f"perplexity on {data}"))
    if summary.champion_difference is not None:
        gates.append(
            _gate(
                "noninferiority",
                summary.champion_difference,
                config.noninferiority_margin,
                f"bits per byte, candidate minus champion, paired on {data}",
            )
        )
    return tuple(gates)


def require_passed(gates: tuple[GateDecision, ...], report_uri: str) -> None:
    """Return when all gates passed.

    Raises:
        GateRefused: with every refusal's evidence and where the report is.
    """
    refused = [str(gate) for gate in gates if not gate.passed]
    if refused:
        raise GateRefused(f"{'; '.join(refused)}; report: {report_uri}")


def _gate(name: str, observed: Estimate, limit: float, evidence: str) -> GateDecision:
    return GateDecision(name=name, passed=observed.high <= limit, observed=observed, limit=limit, evidence=evidence)
