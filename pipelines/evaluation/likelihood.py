"""Negative log-likelihood of whole documents under a model, however long they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import BadInput, GateRefused
from pipelines.inference.request import ScoreItem

if TYPE_CHECKING:
    from pipelines.inference.engine import Engine

logger = logging.getLogger(__name__)

BATCH_LOGITS = 1 << 22
"""Most logits per pass: 16 MiB of fp32, about what a processor's cache keeps; more per pass was slower."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of one document to score in one go, after the tokens before them."""

    document: int
    item: ScoreItem


def document_nll(
    engine: Engine,
    documents: Sequence[NDArray[np.int64]],
    *,
    separator: int,
    window_tokens: int,
    report: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Return each document's negative log-likelihood in nats, shape (documents,).

    Args:
        engine: the model.
        documents: tokens of each document; every token is scored exactly once.
        separator: end-of-text token, which precedes each document as it does in training.
        window_tokens: longest context. A longer document is read in windows that overlap by half, so that every
            token after the first window has at least half a window before it.
        report: is told windows done and windows in all.

    Raises:
        GateRefused: when the model gives a document no finite likelihood.
    """
    started = time.monotonic()
    size = min(window_tokens, engine.context_limit)
    windows = [window for index, tokens in enumerate(documents) for window in _windows(index, tokens, separator, size)]
    windows.sort(key=lambda window: (-len(window.item), window.document))  # alike lengths, little padding
    totals = np.zeros(len(documents))
    done = 0
    for batch in _batches(windows, max(size, BATCH_LOGITS // engine.vocab_size)):
        scores = engine.score_batch([window.item for window in batch])
        for window, logprobs in zip(batch, scores, strict=True):
            totals[window.document] -= logprobs.sum()
        done += len(batch)
        if report is not None:
            report(done, len(windows))
    _refuse_nonfinite(totals)
    num_tokens = sum(len(tokens) for tokens in documents)
    logger.info("scored %d documents, %d tokens, %.1f s", len(documents), num_tokens, time.monotonic() - started)
    return totals


def separator_of(engine: Engine) -> int:
    """Return the model's end-of-text token.

    Raises:
        BadInput: when the model has none.
    """
    if engine.end_token is None:
        raise BadInput("champion: config.json names no eos_token_id, so documents cannot be told apart; set it")
    return engine.end_token


def encode_documents(engine: Engine, texts: Sequence[str], separator: int) -> list[NDArray[np.int64]]:
    """Return texts as tokens of the engine's own tokenizer, each with its end-of-text token."""
    encoded = engine.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array([*document.ids, separator], np.int64) for document in encoded]


def _windows(document: int, tokens: NDArray[np.int64], separator: int, size: int) -> list[Window]:
    text = (separator, *tokens.tolist())
    half = max(1, size // 2)
    later = [
        ScoreItem(text[start - (size - half) : start], text[start : start + half])
        for start in range(size, len(text), half)
    ]
    return [Window(document, item) for item in (ScoreItem(text[:1], text[1:size]), *later)]


def _batches(windows: Sequence[Window], max_tokens: int) -> list[list[Window]]:
    """Cut windows, longest first, into batches of at most `max_tokens` padded tokens."""
    batches: list[list[Window]] = []
    for window in windows:
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].item) > max_tokens:
            batches.append([])
        batches[-1].append(window)
    return batches


def _refuse_nonfinite(totals: NDArray[np.float64]) -> None:
    broken = np.flatnonzero(~np.isfinite(totals))
    if len(broken):
        raise GateRefused(
            f"gate finite refused: {len(broken)} of {len(totals)} documents have no finite likelihood "
            f"(first: document {broken[0]} of the validation split), limit 0; the weights are damaged or overflow"
        )
