"""Intervals by resampling documents: a document is the unit that is independent of the others, a token is not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import BadInput
from pipelines.formats.records import Estimate

Values = NDArray[np.float64]

BLOCK_CELLS = 4_000_000
"""Resample counts held at once: bounds memory, not the result."""


def ratio_of_sums(
    numerator: Values, denominator: Values, *, num_resamples: int, confidence: float, seed: int
) -> Estimate:
    """Return sum(numerator) / sum(denominator) with its percentile interval (Efron & Tibshirani 1993, chapter 13).

    Both arrays have shape (documents,). Calls with equal seeds and numbers of documents draw the same documents, so
    estimates made one after the other are comparable resample by resample.

    Raises:
        BadInput: when there are fewer than two documents, from which no interval follows.
    """
    num_documents = len(numerator)
    if num_documents < 2:
        raise BadInput(
            f"validation split: {num_documents} documents; an interval needs at least 2, better 100: "
            "raise preparation.validation_fraction or bring more data"
        )
    rng = np.random.default_rng(seed)
    share = np.full(num_documents, 1 / num_documents)
    both = np.stack([numerator, denominator], axis=1)
    block = max(1, BLOCK_CELLS // num_documents)
    ratios = []
    for start in range(0, num_resamples, block):
        counts = rng.multinomial(num_documents, share, size=min(block, num_resamples - start))
        sums = counts @ both
        ratios.append(sums[:, 0] / sums[:, 1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    value = float(numerator.sum() / denominator.sum())
    return Estimate(value=value, low=float(low), high=float(high), confidence=confidence)


def exponential(estimate: Estimate) -> Estimate:
    """Return the estimate of exp(x): quantiles keep their rank under a rising function."""
    return estimate.model_copy(update={end: math.exp(getattr(estimate, end)) for end in ("value", "low", "high")})
