"""From likelihoods to the numbers that people and gates read."""

from __future__ import annotations

import math

import numpy as np

from pipelines.evaluation.bootstrap import Values, exponential, ratio_of_sums
from pipelines.formats.records import DocumentRecord, Estimate, EvaluationSummary
from pipelines.spec import EvaluationConfig


def summarise(records: tuple[DocumentRecord, ...], config: EvaluationConfig) -> EvaluationSummary:
    """Return perplexity, bits per byte and their comparisons, each with a bootstrap interval over documents.

    Perplexity is exp(nll per token). Models with different tokenizers share no tokens, so the champion is compared
    per byte of text: bits per byte, paired by document.

    Raises:
        BadInput: when there are too few documents for an interval.
    """

    def ratio(numerator: Values, denominator: Values) -> Estimate:
        return ratio_of_sums(
            numerator,
            denominator,
            num_resamples=config.bootstrap_resamples,
            confidence=config.confidence,
            seed=config.seed,
        )

    tokens = np.array([record.num_tokens for record in records], np.float64)
    bits = np.array([record.num_bytes for record in records], np.float64) * math.log(2)
    nll = np.array([record.nll for record in records])
    baseline = np.array([record.baseline_nll for record in records])
    champion = np.array([record.champion_nll for record in records if record.champion_nll is not None])
    compared = len(records) > 0 and len(champion) == len(records)
    return EvaluationSummary(
        num_documents=len(records),
        num_tokens=sum(record.num_tokens for record in records),
        num_bytes=sum(record.num_bytes for record in records),
        perplexity=exponential(ratio(nll, tokens)),
        bits_per_byte=ratio(nll, bits),
        baseline_perplexity=exponential(ratio(baseline, tokens)),
        perplexity_ratio=exponential(ratio(nll - baseline, tokens)),
        baseline_bits_per_byte=ratio(baseline, bits),
        champion_bits_per_byte=ratio(champion, bits) if compared else None,
        champion_difference=ratio(nll - champion, bits) if compared else None,
    )
