"""OpenAI's answers: one class per endpoint, each able to say a whole answer or a piece of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bentos.text_generation.protocol import Prompt
    from pipelines.inference.request import Chunk, Completion, TokenLogprob

Json = dict[str, Any]


class Answer(Protocol):
    """How one request's generation is told to its client."""

    def whole(self, completions: Sequence[Completion]) -> Json:
        """Return the complete answer: one choice for each prompt."""

    def opening(self) -> list[Json]:
        """Return the chunks that a stream begins with."""

    def piece(self, index: int, chunk: Chunk) -> Json:
        """Return one chunk of a stream, of the choice with this index."""

    def usage(self, completions: Sequence[Completion]) -> Json:
        """Return the chunk that counts tokens at the end of a stream."""


class _Envelope:
    """What every object of one answer repeats."""

    def __init__(self, prefix: str, kind: str, model: str, version: str) -> None:
        self._fields = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": version,
        }

    def wrap(self, *choices: Json, finished: Sequence[Completion] = ()) -> Json:
        """Return an answer with these choices, and token counts when it is finished."""
        answer = {**self._fields, "choices": choices}
        if finished:
            answer["usage"] = _usage(finished)
        return answer


class CompletionAnswer:
    """An answer of `/v1/completions`."""

    def __init__(
        self, *, model: str, version: str, tokenizer: Tokenizer, prompts: Sequence[Prompt], echo: bool, logprobs: bool
    ) -> None:
        self._envelope = _Envelope("cmpl", "text_completion", model, version)
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._offsets = [0 if echo or not logprobs else len(_text(tokenizer, prompt)) for prompt in prompts]

    def whole(self, completions: Sequence[Completion]) -> Json:
        """Return the complete answer."""
        choices = [
            self._choice(index, found.text, [*found.prompt_logprobs, *found.logprobs], found.finish_reason)
            for index, found in enumerate(completions)
        ]
        return self._envelope.wrap(*choices, finished=completions)

    def opening(self) -> list[Json]:
        """Return nothing: the first chunk is already text."""
        return []

    def piece(self, index: int, chunk: Chunk) -> Json:
        """Return one chunk of a stream."""
        return self._envelope.wrap(self._choice(index, chunk.text, chunk.logprobs, chunk.finish_reason))

    def usage(self, completions: Sequence[Completion]) -> Json:
        """Return the chunk that counts tokens."""
        return self._envelope.wrap(finished=completions)

    def _choice(self, index: int, text: str, scored: Iterable[TokenLogprob], finish_reason: str | None) -> Json:
        logprobs = self._logprobs_of(index, scored) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs_of(self, index: int, scored: Iterable[TokenLogprob]) -> Json:
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for position in scored:
            token = _token_text(self._tokenizer, position.token)
            top = {_token_text(self._tokenizer, other): value for other, value in reversed(position.top)}
            found["tokens"].append(token)
            found["token_logprobs"].append(position.logprob)
            found["top_logprobs"].append(top if position.logprob is not None else None)
            found["text_offset"].append(self._offsets[index])
            self._offsets[index] += len(token)
        return found


class ChatAnswer:
    """An answer of `/v1/chat/completions`."""

    def __init__(self, *, model: str, version: str, tokenizer: Tokenizer, stream: bool, logprobs: bool) -> None:
        kind = "chat.completion.chunk" if stream else "chat.completion"
        self._envelope = _Envelope("chatcmpl", kind, model, version)
        self._tokenizer = tokenizer
        self._logprobs = logprobs

    def whole(self, completions: Sequence[Completion]) -> Json:
        """Return the complete answer."""
        (completion,) = completions
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = self._choice("message", message, completion.logprobs, completion.finish_reason)
        return self._envelope.wrap(choice, finished=completions)

    def opening(self) -> list[Json]:
        """Return the chunk that names the speaker."""
        return [self._envelope.wrap(self._choice("delta", {"role": "assistant", "content": ""}, (), None))]

    def piece(self, index: int, chunk: Chunk) -> Json:
        """Return one chunk of a stream."""
        delta = {"content": chunk.text} if chunk.text else {}
        return self._envelope.wrap(self._choice("delta", delta, chunk.logprobs, chunk.finish_reason))

    def usage(self, completions: Sequence[Completion]) -> Json:
        """Return the chunk that counts tokens."""
        return self._envelope.wrap(finished=completions)

    def _choice(self, key: str, said: Json, scored: Iterable[TokenLogprob], finish_reason: str | None) -> Json:
        logprobs = {"content": [self._logprob_of(position) for position in scored]} if self._logprobs else None
        return {"index": 0, key: said, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprob_of(self, position: TokenLogprob) -> Json:
        top = [self._token(token, value) for token, value in position.top]
        return {**self._token(position.token, position.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float | None) -> Json:
        text = _token_text(self._tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _usage(completions: Sequence[Completion]) -> Json:
    num_prompt = sum(completion.num_prompt_tokens for completion in completions)
    num_completion = sum(len(completion.tokens) for completion in completions)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }


def _text(tokenizer: Tokenizer, prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else str(tokenizer.decode(prompt, skip_special_tokens=True))


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    return str(tokenizer.decode([token], skip_special_tokens=False))
