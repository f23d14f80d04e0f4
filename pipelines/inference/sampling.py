"""Choose the next token of each row of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.inference.request import SamplingParams, TokenLogprob


@dataclass(slots=True)
class Sampler:
    """One request's temperature, nucleus and random numbers; its own generator keeps it independent of the batch."""

    temperature: float
    top_p: float
    random: random.Random

    @classmethod
    def of(cls, params: SamplingParams) -> Sampler | None:
        """Return the sampler that `params` asks for; None when it asks for the most likely token."""
        if params.temperature == 0:
            return None
        return cls(params.temperature, params.top_p, random.Random(params.seed))  # noqa: S311  # not for secrets


def choose(logits: torch.Tensor, samplers: Sequence[Sampler | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one token for each row of `logits` (rows, vocabulary), and each row's largest logit.

    Rows without a sampler take the most likely token. The largest logit is finite exactly when all log-probabilities of
    the row are numbers: it is NaN where any logit is.
    """
    largest, tokens = logits.max(dim=-1)
    rows = [row for row, sampler in enumerate(samplers) if sampler is not None]
    if rows:
        tokens[rows] = _sample(logits[rows], [sampler for sampler in samplers if sampler is not None])
    return tokens, largest


def _sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Draw one token per row by inverting the cumulative distribution of its nucleus at one uniform number."""
    temperatures = torch.tensor([sampler.temperature for sampler in samplers], dtype=torch.float64)
    nuclei = torch.tensor([sampler.top_p for sampler in samplers], dtype=torch.float64)
    uniforms = torch.tensor([sampler.random.random() for sampler in samplers], dtype=torch.float64)
    probabilities = (logits.double() / temperatures[:, None]).softmax(dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1)
    # The nucleus is the shortest prefix that reaches top_p: a token is in it when the mass before it is below top_p.
    # It has at least one token, so that logits that are no numbers spoil their own row and not the batch.
    size = ((cumulative - ordered) < nuclei[:, None]).sum(dim=-1, keepdim=True).clamp(min=1)
    mass = cumulative.gather(-1, size - 1)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * mass, right=True).clamp(max=size - 1)
    return order.gather(-1, drawn)[:, 0]


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, num_top: int) -> list[TokenLogprob]:
    """Return each row's log-probability of its token, with the `num_top` most likely alternatives.

    Shapes: `logits` (rows, vocabulary), `tokens` (rows,). Only rows that were asked for should be passed.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
    if not num_top:
        return [TokenLogprob(token, value) for token, value in zip(tokens.tolist(), chosen, strict=True)]
    best = logprobs.topk(min(num_top, logprobs.shape[-1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprob(token, value, tuple(zip(ids, values, strict=True)))
        for token, value, (ids, values) in zip(tokens.tolist(), chosen, tops, strict=True)
    ]
