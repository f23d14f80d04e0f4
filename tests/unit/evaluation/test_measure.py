"""From per-document likelihoods to a summary; the unigram baseline."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.baseline import fit_unigram
from pipelines.evaluation.measure import summarise
from pipelines.formats.records import DocumentRecord
from pipelines.formats.shards import EncodedDocument, TokenShards, write_shards
from pipelines.spec import EvaluationConfig

CONFIG = EvaluationConfig(bootstrap_resamples=200)


def records(*, champion: float | None = None) -> tuple[DocumentRecord, ...]:
    """Return 40 documents whose tokens cost 2 nats each, 3 for the baseline, `champion` for the champion."""
    return tuple(
        DocumentRecord(
            id=f"doc {index}",
            num_tokens=10 + index,
            num_bytes=40 + 4 * index,
            nll=2.0 * (10 + index),
            baseline_nll=3.0 * (10 + index),
            champion_nll=None if champion is None else champion * (10 + index),
        )
        for index in range(40)
    )


def test_summary_is_perplexity_and_bits_per_byte() -> None:
    found = summarise(records(), CONFIG)
    assert found.perplexity.value == pytest.approx(math.exp(2))
    assert found.baseline_perplexity.value == pytest.approx(math.exp(3))
    assert found.perplexity_ratio.high == pytest.approx(math.exp(-1))
    assert found.bits_per_byte.value == pytest.approx(2 / 4 / math.log(2))
    assert (found.num_documents, found.num_tokens) == (40, sum(range(10, 50)))
    assert found.champion_difference is None


def test_a_better_champion_shows_as_a_positive_difference() -> None:
    found = summarise(records(champion=1.9), CONFIG)
    assert found.champion_difference is not None
    assert found.champion_difference.value == pytest.approx(0.1 / 4 / math.log(2))


def test_the_unigram_baseline_is_add_one_smoothed_frequency(tmp_path: Path) -> None:
    document = EncodedDocument("a", [1, 1, 1, 2], "text")
    write_shards(tmp_path, {"train": [document]}, vocabulary_size=4, eos_id=0)
    logprobs = fit_unigram(TokenShards.open(tmp_path).split("train"), 4)
    np.testing.assert_allclose(np.exp(logprobs), np.array([2, 4, 2, 1]) / 9)
