"""Golden requests: greedy answers that identify weights, chosen so that rounding cannot change them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING

from pipelines.errors import BadInput
from pipelines.formats.requests import GoldenRequest
from pipelines.inference.request import FinishReason, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from pipelines.inference.engine import Engine

MIN_MARGIN = 0.02
"""Smallest lead in logits of every golden token. Batch shape and thread count move fp32 logits by about 1e-5."""

SHORTEST_ANSWER = 4
"""Fewest tokens of a golden answer."""


def build_golden(
    engine: Engine, prompts: Iterable[str], *, count: int, max_tokens: int, min_margin: float = MIN_MARGIN
) -> list[GoldenRequest]:
    """Return `count` golden requests from the first prompts whose answers are decided clearly enough.

    An answer is cut before its first token whose lead is below `min_margin`; prompts with fewer than
    `SHORTEST_ANSWER` (or `max_tokens`) tokens left are passed over.

    Raises:
        BadInput: when too few prompts qualify.
    """
    golden: list[GoldenRequest] = []
    for prompt in prompts:
        if len(golden) == count:
            break
        request = _golden(engine, prompt, max_tokens, min_margin)
        if request is not None:
            golden.append(request)
    if len(golden) < count:
        raise BadInput(
            f"golden requests: {count} are wanted, but only {len(golden)} prompts have greedy answers whose tokens all "
            f"lead by {min_margin} logits; give more prompts or set packaging.num_golden_requests to {len(golden)}"
        )
    return golden


def is_answered(engine: Engine, request: GoldenRequest) -> bool:
    """Return whether the engine gives exactly the golden answer."""
    answer = engine.generate(request.prompt, SamplingParams(max_tokens=request.max_tokens))
    return answer.tokens == request.expected_tokens and answer.text == request.expected_text


def _golden(engine: Engine, prompt: str, max_tokens: int, min_margin: float) -> GoldenRequest | None:
    tokens = engine.encode(prompt)
    if not tokens or len(tokens) + max_tokens > engine.context_limit:
        return None
    probe = engine.generate(tokens, SamplingParams(max_tokens=max_tokens, logprobs=2))
    margins = list(takewhile(lambda margin: margin >= min_margin, map(_margin, probe.logprobs)))
    if len(margins) < min(SHORTEST_ANSWER, max_tokens):
        return None
    answer = engine.generate(tokens, SamplingParams(max_tokens=len(margins)))
    if answer.tokens != probe.tokens[: len(margins)] or answer.finish_reason is not FinishReason.LENGTH:
        return None
    return GoldenRequest(
        prompt=prompt,
        max_tokens=len(margins),
        expected_text=answer.text,
        expected_tokens=answer.tokens,
        margin=round(min(margins), 6),
    )


def _margin(position: TokenLogprob) -> float:
    """Return the lead of the best token over the second: a difference of log-probabilities is one of logits."""
    (_, best), (_, second) = position.top
    return best - second
