"""Windows over long documents: every token is scored once, with enough before it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import BadInput, GateRefused
from pipelines.evaluation.likelihood import document_nll, encode_documents, separator_of
from pipelines.inference.request import ScoreItem

SEPARATOR = 0


class PositionEngine:
    """An engine whose log-probability of a token is minus the token; it remembers what it was asked."""

    context_limit = 64
    vocab_size = 1 << 20
    end_token: int | None = SEPARATOR

    def __init__(self) -> None:
        self.items: list[ScoreItem] = []
        self.padded_tokens: list[int] = []

    def score_batch(self, items: list[ScoreItem]) -> list[np.ndarray]:
        """Score by value."""
        self.items += items
        self.padded_tokens.append(len(items) * max(len(item) for item in items))
        return [-np.array(item.continuation, float) for item in items]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("window", [2, 3, 8, 16, 1000])
def test_every_token_is_scored_once_with_half_a_window_before_it(length: int, window: int) -> None:
    engine = PositionEngine()
    tokens = np.arange(1, length + 1)
    totals = document_nll(engine, [tokens], separator=SEPARATOR, window_tokens=window)  # type: ignore[arg-type]
    assert totals == [tokens.sum()]
    scored = [token for item in engine.items for token in item.continuation]
    assert sorted(scored) == tokens.tolist()
    limit = min(window, engine.context_limit)
    for item in engine.items:
        assert len(item) <= limit
        assert item.prompt[0] == SEPARATOR or len(item.prompt) >= limit // 2
        assert item.prompt + item.continuation == tuple(range(item.prompt[0], item.prompt[0] + len(item)))


def test_documents_keep_their_own_totals_and_batches_stay_small() -> None:
    engine = PositionEngine()
    documents = [np.full(length, length) for length in (3, 30, 12, 90, 1)]
    totals = document_nll(engine, documents, separator=SEPARATOR, window_tokens=16)  # type: ignore[arg-type]
    assert totals.tolist() == [9, 900, 144, 8100, 1]
    assert max(engine.padded_tokens) == 16  # a vocabulary of a million leaves room for 16 positions per pass


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    documents = [np.arange(1, 5)] * 3
    document_nll(
        PositionEngine(),  # type: ignore[arg-type]
        documents,
        separator=SEPARATOR,
        window_tokens=16,
        report=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (3, 3)


def test_a_likelihood_that_is_no_number_is_refused() -> None:
    documents = [np.array([1.0]), np.array([np.inf]), np.array([np.nan])]
    with pytest.raises(GateRefused, match=r"gate finite refused: 2 of 3 .*first: document 1 of the validation split"):
        document_nll(PositionEngine(), documents, separator=SEPARATOR, window_tokens=16)  # type: ignore[arg-type]


def test_a_model_without_an_end_token_cannot_be_compared() -> None:
    engine = PositionEngine()
    engine.end_token = None
    with pytest.raises(BadInput, match="names no eos_token_id"):
        separator_of(engine)  # type: ignore[arg-type]


def test_encoded_documents_end_with_the_separator() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    engine = PositionEngine()
    engine.tokenizer = Tokenizer(models.WordLevel({"a": 1, "b": 2}, unk_token="a"))  # type: ignore[attr-defined]
    engine.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[attr-defined]
    encoded = encode_documents(engine, ["a b", "b"], SEPARATOR)  # type: ignore[arg-type]
    assert [document.tolist() for document in encoded] == [[1, 2, 0], [2, 0]]
