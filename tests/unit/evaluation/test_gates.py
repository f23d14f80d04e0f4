"""Gates judge the unfavourable end of an interval and say what they saw."""

from __future__ import annotations

import pytest

from pipelines.errors import ExitCode, GateRefused
from pipelines.evaluation.gates import decide, require_passed
from pipelines.formats.records import Estimate, EvaluationSummary
from pipelines.spec import EvaluationConfig


def between(low: float, value: float, high: float) -> Estimate:
    """Return a 95 % estimate."""
    return Estimate(value=value, low=low, high=high, confidence=0.95)


def summary(
    *, perplexity: Estimate | None = None, ratio: Estimate | None = None, difference: Estimate | None = None
) -> EvaluationSummary:
    """Return a summary that passes the default gates but for what a test sets."""
    return EvaluationSummary(
        num_documents=700,
        num_tokens=52_000,
        num_bytes=190_000,
        perplexity=perplexity or between(67, 68, 69),
        bits_per_byte=between(1.6, 1.7, 1.8),
        baseline_perplexity=between(620, 627, 634),
        baseline_bits_per_byte=between(2.5, 2.6, 2.7),
        perplexity_ratio=ratio or between(0.10, 0.11, 0.12),
        champion_bits_per_byte=between(1.6, 1.7, 1.8) if difference else None,
        champion_difference=difference,
    )


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        pytest.param(summary(ratio=between(0.48, 0.49, 0.5)), True, id="upper-end-at-the-limit"),
        pytest.param(summary(ratio=between(0.48, 0.49, 0.501)), False, id="upper-end-beyond-the-limit"),
        pytest.param(summary(difference=between(-0.2, -0.1, 0.0)), True, id="better-than-the-champion"),
        pytest.param(summary(difference=between(-0.01, 0.0, 0.019)), True, id="not-worse-by-the-margin"),
        pytest.param(summary(difference=between(-0.5, -0.1, 0.021)), False, id="perhaps-worse-by-the-margin"),
    ],
)
def test_the_upper_end_of_the_interval_must_hold(found: EvaluationSummary, passed: bool) -> None:
    assert all(gate.passed for gate in decide(found, EvaluationConfig())) is passed


def test_only_gates_that_apply_are_decided() -> None:
    names = [gate.name for gate in decide(summary(), EvaluationConfig())]
    assert names == ["perplexity_ratio"]
    config = EvaluationConfig(max_perplexity=80)
    every = [gate.name for gate in decide(summary(difference=between(0, 0, 0)), config)]
    assert every == ["perplexity_ratio", "perplexity", "noninferiority"]


def test_a_refusal_is_evidence_and_not_worth_a_retry() -> None:
    config = EvaluationConfig(max_perplexity=80)
    gates = decide(summary(perplexity=between(90.2, 91.4, 92.7)), config)
    with pytest.raises(GateRefused) as refused:
        require_passed(gates, "artifacts/evaluation/abc")
    assert str(refused.value) == (
        "gate perplexity refused: observed 91.4 (95 % CI 90.2-92.7), limit 80; report: artifacts/evaluation/abc"
    )
    assert refused.value.exit_code == ExitCode.REFUSED


def test_an_interval_below_zero_reads_unambiguously() -> None:
    assert str(between(-0.02, -0.01, 0.005)) == "-0.01 (95 % CI -0.02 to 0.005)"


def test_passed_gates_let_the_run_go_on() -> None:
    require_passed(decide(summary(), EvaluationConfig()), "artifacts/evaluation/abc")


def test_evidence_names_documents_tokens_and_resamples() -> None:
    (gate,) = decide(summary(), EvaluationConfig())
    assert gate.evidence == (
        "perplexity over the unigram baseline's (627) on 700 validation documents, 52,000 tokens; "
        "interval from 1,000 resamples of documents"
    )
