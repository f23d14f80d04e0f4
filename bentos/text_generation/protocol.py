"""OpenAI's requests, as far as this service answers them; what it cannot do is refused by name, never ignored."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bentos.text_generation.errors import Refusal
from pipelines.inference.request import MAX_LOGPROBS, MAX_STOPS, SamplingParams

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default of `max_tokens` for completions."""

MAX_PROMPTS = 16
"""Most prompts of one request; each takes a place in the queue."""

Prompt = str | list[int]
"""A text, or its tokens."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompts(value: Any) -> Any:
    """Return what OpenAI calls a prompt (a text, its tokens, or several of either) as a list of prompts."""
    is_several = isinstance(value, list) and any(isinstance(part, str | list) for part in value)
    prompts = value if is_several else [value]
    if all(isinstance(prompt, str) or _is_tokens(prompt) for prompt in prompts):
        return prompts
    raise ValueError("must be a text, a list of token numbers, or a list of such prompts")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


Zero = Annotated[float, Field(ge=0.0, le=0.0)]
"""A penalty that is supported only when switched off."""


class StreamOptions(BaseModel):
    """What a stream says besides its text."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool = False
    """End with a chunk that counts tokens."""

    include_obfuscation: bool = False
    """Accepted; nothing is padded."""


class Request(BaseModel):
    """Fields that completions and chat share."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = ""
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = Field(default_factory=lambda: secrets.randbits(63))
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)] = Field(
        default_factory=list, max_length=MAX_STOPS
    )
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0
    logit_bias: dict[str, float] = Field(default_factory=dict, max_length=0)

    # Say nothing about the answer: accepted and left alone.
    metadata: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Self:
        """Check a request; a null is a field that was not given.

        Raises:
            Refusal: 422, naming the first field that breaks a rule.
        """
        try:
            return cls.model_validate({key: value for key, value in content.items() if value is not None})
        except ValidationError as error:
            raise _refusal(error) from error

    def sampling(self, *, max_tokens: int, logprobs: int | None, echo: bool = False) -> SamplingParams:
        """Return the engine's parameters."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop),
            logprobs=logprobs,
            echo=echo,
        )


class CompletionRequest(Request):
    """`POST /v1/completions`."""

    prompt: Annotated[list[Prompt], BeforeValidator(_as_prompts)] = Field(max_length=MAX_PROMPTS)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: Literal[1] = 1
    suffix: Literal[""] = ""


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str = ""

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """Free text; JSON modes are not supported."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["text"] = "text"


class ChatRequest(Request):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)
    response_format: ResponseFormat = ResponseFormat()
    tools: list[Any] = Field(default=[], max_length=0)
    tool_choice: Literal["none", "auto"] = "none"
    parallel_tool_calls: Any = None

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        return self


def _refusal(error: ValidationError) -> Refusal:
    problem = error.errors(include_url=False, include_context=False)[0]
    location = list(problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:  # a rule over several fields names its own
        param, _, message = message.partition(": ")
        return Refusal(422, f"{param}: {message}", param=param)
    param = str(location[0])
    if problem["type"] == "extra_forbidden":
        return Refusal(422, f"{param}: this service does not know the field; leave it out", param=param)
    given = repr(problem["input"])
    shown = "" if problem["type"] == "missing" else f", got {given if len(given) <= 60 else given[:57] + '...'}"
    return Refusal(422, f"{param}: {message}{shown}", param=param)
