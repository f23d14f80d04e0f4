"""Check a request against the model and its limits, and decide what to compute and how to tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bentos.text_generation.answers import Answer, ChatAnswer, CompletionAnswer
from bentos.text_generation.errors import Refusal
from bentos.text_generation.protocol import DEFAULT_COMPLETION_TOKENS, ChatRequest, CompletionRequest, Request
from pipelines.inference.request import SamplingParams

if TYPE_CHECKING:
    from bentos.text_generation.runtime import Runtime


@dataclass(frozen=True)
class Plan:
    """A checked request."""

    prompts: list[tuple[int, ...]]
    """Each gets an answer of its own."""

    asked: CompletionRequest | ChatRequest
    """What was sent."""

    params: SamplingParams
    answer: Answer
    stream: bool
    include_usage: bool


def plan_completion(content: dict[str, Any], runtime: Runtime) -> Plan:
    """Return the plan for a request to `/v1/completions`.

    Raises:
        Refusal: naming the field that breaks a rule.
    """
    asked = CompletionRequest.parse(content)
    _check_model(asked, runtime)
    if len(asked.prompt) > (most := runtime.limits.max_queue):
        raise Refusal(422, f"prompt: at most {most} fit the queue at once, got {len(asked.prompt)}", param="prompt")
    num_tokens = DEFAULT_COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    params = asked.sampling(
        max_tokens=_within_limit("max_tokens", num_tokens, runtime), logprobs=asked.logprobs, echo=asked.echo
    )
    answer = CompletionAnswer(
        model=runtime.identity.name,
        version=runtime.identity.version,
        tokenizer=runtime.engine.tokenizer,
        prompts=asked.prompt,
        echo=asked.echo,
        logprobs=asked.logprobs is not None,
    )
    encode = runtime.engine.encode
    prompts = [encode(prompt) if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompt]
    return Plan(prompts, asked, params, answer, asked.stream, asked.stream_options.include_usage)


def plan_chat(content: dict[str, Any], runtime: Runtime) -> Plan:
    """Return the plan for a request to `/v1/chat/completions`.

    Raises:
        Refusal: naming the field that breaks a rule.
    """
    asked = ChatRequest.parse(content)
    _check_model(asked, runtime)
    engine = runtime.engine
    prompt = tuple(engine.tokenizer.encode(runtime.chat.render(asked.messages), add_special_tokens=False).ids)
    if asked.max_completion_tokens is not None:
        num_tokens = _within_limit("max_completion_tokens", asked.max_completion_tokens, runtime)
    elif asked.max_tokens is not None:
        num_tokens = _within_limit("max_tokens", asked.max_tokens, runtime)
    else:
        num_tokens = max(1, min(runtime.limits.max_tokens, engine.context_limit - len(prompt)))
    params = asked.sampling(max_tokens=num_tokens, logprobs=asked.top_logprobs if asked.logprobs else None)
    answer = ChatAnswer(
        model=runtime.identity.name,
        version=runtime.identity.version,
        tokenizer=engine.tokenizer,
        stream=asked.stream,
        logprobs=asked.logprobs,
    )
    return Plan([prompt], asked, params, answer, asked.stream, asked.stream_options.include_usage)


def _check_model(asked: Request, runtime: Runtime) -> None:
    name = runtime.identity.name
    if asked.model not in ("", name):
        raise Refusal(
            404, f"model: {asked.model!r} is not served here; use {name!r}", param="model", code="model_not_found"
        )


def _within_limit(field: str, num_tokens: int, runtime: Runtime) -> int:
    limit = runtime.limits.max_tokens
    if num_tokens > limit:
        raise Refusal(422, f"{field}: must be at most {limit}, got {num_tokens}", param=field)
    return num_tokens
