"""What a caller asks of the engine and what it gets back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from pipelines.inference.errors import RequestRefused

MAX_LOGPROBS = 20
"""Most alternatives reported per position."""

MAX_STOPS = 16
"""Most stop sequences in one request."""


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt. Checked once, here."""

    max_tokens: int = 16
    """Most tokens to generate; 0 is allowed with `echo` (the prompt is only scored)."""

    temperature: float = 0.0
    """0 takes the most likely token each time (greedy)."""

    top_p: float = 1.0
    """Sample among the most likely tokens whose probabilities sum to this (nucleus sampling, Holtzman et al. 2020)."""

    seed: int = 0
    """Equal seeds give equal samples, whatever else is in the batch."""

    stop: tuple[str, ...] = ()
    """Generation ends before any of these texts, which are not part of the answer."""

    logprobs: int | None = None
    """Report log-probabilities, with this many of the most likely alternatives per position."""

    echo: bool = False
    """Put the prompt, with its log-probabilities where asked, before the answer."""

    def __post_init__(self) -> None:
        rules = (
            ("max_tokens", self.max_tokens >= (0 if self.echo else 1), "must be at least 1 (0 only with echo)"),
            ("temperature", math.isfinite(self.temperature) and 0 <= self.temperature <= 10, "must be within 0..10"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("stop", len(self.stop) <= MAX_STOPS and all(self.stop), f"must be at most {MAX_STOPS} non-empty texts"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, f"must be 0..{MAX_LOGPROBS}"),
        )
        for field, holds, rule in rules:
            if not holds:
                raise RequestRefused(field, f"{rule}, got {getattr(self, field)!r}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One position's log-probability, in nats."""

    token: int
    logprob: float | None
    """None for the first token of a text: nothing precedes it."""

    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this position with their log-probabilities, best first."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer as it streams: text that no later token can change, and the tokens it came from."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the last chunk only."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one request's life, for metrics."""

    queued_seconds: float
    """From submission until the model began with the prompt."""

    first_token_seconds: float | None
    """From submission until the first token; None when there was none."""

    per_token_seconds: float | None
    """Mean gap between output tokens; None with fewer than two."""

    total_seconds: float
    """From submission until the end."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    text: str
    tokens: tuple[int, ...]
    """Generated tokens, without the end-of-text token."""

    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]
    """One for each token of `tokens` when asked for, else empty."""

    prompt_logprobs: tuple[TokenLogprob, ...]
    """One for each prompt token when `echo` and `logprobs` were asked for, else empty."""

    num_prompt_tokens: int
    timings: Timings
    is_valid: bool
    """Whether a reader can use it: it has a token where any was asked for, each with a finite log-probability, and its
    bytes decode as text (a character cut off by `max_tokens` does no harm)."""


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """A continuation to score after its prompt, both as tokens, neither empty."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.continuation)
