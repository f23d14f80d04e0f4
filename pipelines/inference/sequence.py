"""One request inside the engine: what it has generated, what of that may be shown, and when it is over."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from pipelines.inference.request import Chunk, Completion, FinishReason, SamplingParams, Timings, TokenLogprob
from pipelines.inference.sampling import Sampler
from pipelines.inference.text import REPLACEMENT, Detokenizer, StopFilter

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class SequenceState:
    """State of one request. Only the engine's worker thread changes it."""

    def __init__(
        self, prompt: tuple[int, ...], params: SamplingParams, tokenizer: Tokenizer, end_tokens: frozenset[int]
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.sampler = Sampler.of(params)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self.finish_reason: FinishReason | None = None
        self.text: list[str] = []
        self._end_tokens = end_tokens
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopFilter(params.stop)
        self._num_streamed = 0
        self._is_finite = True
        self._is_decodable = True
        self._submitted = time.monotonic()
        self._started = self._submitted
        self._first_token: float | None = None

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the prompt itself is to be scored."""
        return self.params.echo and self.params.logprobs is not None

    def start(self) -> None:
        """Note that the model starts with the prompt."""
        self._started = time.monotonic()

    def echo(self) -> Chunk | None:
        """Return the prompt as the answer's first piece, if asked for."""
        if not self.params.echo:
            return None
        text = self._tokenizer.decode(list(self.prompt), skip_special_tokens=True)
        self.text.append(text)
        return Chunk(text, self.prompt, self.prompt_logprobs)

    def accept(self, token: int, logprob: TokenLogprob | None, *, is_finite: bool) -> Chunk | None:
        """Add a generated token; return what may now be shown, or None while everything is held back."""
        if self._first_token is None:
            self._first_token = time.monotonic()
        self._is_finite &= is_finite
        if token in self._end_tokens:
            return self.finish(FinishReason.STOP)
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        shown, stopped = self._stops.feed(self._decoded(self._detokenizer.feed(token)))
        if stopped:
            return self._close(shown, FinishReason.STOP)
        if len(self.tokens) >= self.params.max_tokens:
            return self.finish(FinishReason.LENGTH, shown)
        return self._chunk(shown) if shown else None

    def finish(self, reason: FinishReason, shown: str = "") -> Chunk:
        """End the sequence and return its last chunk, with the text that was held back."""
        rest = self._detokenizer.flush()
        released, stopped = self._stops.feed(self._decoded(rest) if reason is FinishReason.STOP else rest)
        if not stopped:
            released += self._stops.flush()
        return self._close(shown + released, FinishReason.STOP if stopped else reason)

    def completion(self) -> Completion:
        """Return the finished answer."""
        if self.finish_reason is None:
            raise RuntimeError("the sequence is not finished")
        return Completion(
            text="".join(self.text),
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason,
            logprobs=tuple(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            num_prompt_tokens=len(self.prompt),
            timings=self._timings(),
            is_valid=self._is_valid(),
        )

    def _decoded(self, text: str) -> str:
        """Return `text`, and remember bytes in it that are no text."""
        self._is_decodable &= REPLACEMENT not in text
        return text

    def _is_valid(self) -> bool:
        has_tokens = bool(self.tokens) or self.params.max_tokens == 0
        scores = (position.logprob for position in self.prompt_logprobs if position.logprob is not None)
        return has_tokens and self._is_decodable and self._is_finite and all(map(math.isfinite, scores))

    def _close(self, shown: str, reason: FinishReason) -> Chunk:
        self.finish_reason = reason
        return self._chunk(shown)

    def _chunk(self, shown: str) -> Chunk:
        start, self._num_streamed = self._num_streamed, len(self.tokens)
        self.text.append(shown)
        return Chunk(shown, tuple(self.tokens[start:]), tuple(self.logprobs[start:]), self.finish_reason)

    def _timings(self) -> Timings:
        now = time.monotonic()
        num_gaps = len(self.tokens) - 1
        first = self._first_token
        return Timings(
            queued_seconds=self._started - self._submitted,
            first_token_seconds=None if first is None else first - self._submitted,
            per_token_seconds=(now - first) / num_gaps if first is not None and num_gaps > 0 else None,
            total_seconds=now - self._submitted,
        )
