"""The unigram baseline: what knowing only how often each token occurs is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.formats.shards import TokenSplit

BLOCK_TOKENS = 8_000_000
"""Training tokens counted at once."""


def fit_unigram(train: TokenSplit, vocabulary_size: int) -> NDArray[np.float64]:
    """Return the log-probability, in nats, of each token of the vocabulary: add-one smoothed training frequencies."""
    counts = np.ones(vocabulary_size, np.int64)
    for start in range(0, len(train), BLOCK_TOKENS):
        block = train.slice(start, min(start + BLOCK_TOKENS, len(train)))
        counts += np.bincount(block, minlength=vocabulary_size)
    return np.asarray(np.log(counts / counts.sum()), np.float64)
