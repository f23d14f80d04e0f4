"""The HTTP side of the service: OpenAI's routes, errors, streams, headers and counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bentos.text_generation.answers import Answer, ChatAnswer, CompletionAnswer
from bentos.text_generation.body import read_json
from bentos.text_generation.errors import CLIENT_CLOSED, JSON, Refusal, refusal_of
from bentos.text_generation.metrics import exposition
from bentos.text_generation.protocol import DEFAULT_COMPLETION_TOKENS, ChatRequest, CompletionRequest
from bentos.text_generation.protocol import Request as Asked
from pipelines.errors import SlipwayError
from pipelines.formats import headers
from pipelines.formats.headers import Traffic, traffic_of
from pipelines.inference.request import FinishReason, SamplingParams

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bentos.text_generation.runtime import Runtime
    from pipelines.inference.generation import Generation

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Plan:
    """A checked request: what to compute, and how to tell it."""

    prompt: tuple[int, ...]
    params: SamplingParams
    answer: Answer
    stream: bool
    include_usage: bool


class Api:
    """The routes. `runtime` is there once the model is loaded; before that, no request is let in."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self.app = Starlette(
            routes=[
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/provenance", self.provenance),
                Route("/metrics", self.metrics),
            ],
            exception_handlers={Exception: _failed},
        )

    @property
    def identity_headers(self) -> list[tuple[bytes, bytes]]:
        """Who answers, for every response; nothing while no model is loaded."""
        if self.runtime is None:
            return []
        identity = self.runtime.identity
        return [
            (headers.VERSION.lower().encode(), identity.version.encode()),
            (headers.DIGEST.lower().encode(), identity.digest.encode()),
        ]

    async def completions(self, request: Request) -> Response:
        """Continue a text."""
        return await Call(self._loaded(), request, "/v1/completions").answer(_plan_completion)

    async def chat_completions(self, request: Request) -> Response:
        """Continue a conversation."""
        return await Call(self._loaded(), request, "/v1/chat/completions").answer(_plan_chat)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        identity = self._loaded().identity
        model = {"id": identity.name, "object": "model", "created": 0, "owned_by": "slipway"}
        return _json({"object": "list", "data": [model]})

    async def provenance(self, request: Request) -> Response:
        """Say which files serve, and where they come from."""
        runtime = self._loaded()
        served = {"version": runtime.identity.version, "digest": runtime.identity.digest}
        return _json({**runtime.provenance.model_dump(mode="json"), **served})

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of all worker processes."""
        return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE_LATEST)

    def _loaded(self) -> Runtime:
        if self.runtime is None:
            raise RuntimeError("a request was let in before the model was loaded")
        return self.runtime


class Call:
    """One request on its way through: answered in one piece or as a stream, and counted exactly once."""

    def __init__(self, runtime: Runtime, request: Request, endpoint: str) -> None:
        self._started = time.perf_counter()
        self._runtime = runtime
        self._request = request
        self._endpoint = endpoint
        self._traffic: Traffic = traffic_of(request.headers.get(headers.TRAFFIC), request.headers.get("host"))

    async def answer(self, make_plan: Callable[[dict[str, Any], Runtime], Plan]) -> Response:
        """Return the response; errors become OpenAI's error objects."""
        try:
            content = await read_json(self._request, self._runtime.limits.max_body_bytes)
            plan = make_plan(content, self._runtime)
            generation = self._runtime.submit(plan.prompt, plan.params, self._traffic)
            if plan.stream:
                return StreamingResponse(self._events(plan, generation), media_type="text/event-stream")
            return await self._whole(plan, generation)
        except (Refusal, SlipwayError) as error:
            refusal = refusal_of(error)
            self._over(refusal.status, refusal.kind)
            return refusal.response()
        except (ClientDisconnect, asyncio.CancelledError):
            self._over(CLIENT_CLOSED, "client_closed")
            raise
        except Exception:
            self._over(500, "server_error")
            raise

    async def _whole(self, plan: Plan, generation: Generation) -> Response:
        watch = asyncio.create_task(_cancel_when_gone(self._request, generation))
        try:
            completion = await generation.completion()
        finally:
            watch.cancel()
            self._runtime.release(generation)
        if completion.finish_reason is FinishReason.CANCELLED:
            self._over(CLIENT_CLOSED, "client_closed")
            return Response(status_code=CLIENT_CLOSED)
        response = _json(plan.answer.whole(completion))
        self._runtime.metrics.generated(self._traffic, completion)
        self._over(200)
        return response

    async def _events(self, plan: Plan, generation: Generation) -> AsyncIterator[bytes]:
        """Yield server-sent events; a failure in mid-stream is an event, then a broken connection."""
        code, kind = CLIENT_CLOSED, "client_closed"
        try:
            for opening in plan.answer.opening():
                yield _event(opening)
            async for chunk in generation:
                yield _event(plan.answer.piece(chunk))
            completion = await generation.completion()
            self._runtime.metrics.generated(self._traffic, completion)
            if plan.include_usage:
                yield _event(plan.answer.usage(completion))
            yield DONE
            code, kind = 200, ""
        except SlipwayError as error:
            refusal = refusal_of(error)
            code, kind = refusal.status, refusal.kind
            yield b"data: " + refusal.body() + b"\n\n"
            raise
        finally:
            generation.cancel()
            self._runtime.release(generation)
            self._over(code, kind)

    def _over(self, code: int, kind: str = "") -> None:
        self._runtime.metrics.answered(self._endpoint, self._traffic, code, time.perf_counter() - self._started)
        if kind:
            self._runtime.metrics.failed(self._traffic, kind)


class IdentityHeaders:
    """ASGI middleware that puts version and digest on every response, the framework's own included."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; add the headers where its response starts."""

        async def send_with_identity(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._api.identity_headers]
            await send(message)

        await self._app(scope, receive, send_with_identity if scope["type"] == "http" else send)


def _plan_completion(content: dict[str, Any], runtime: Runtime) -> Plan:
    asked = CompletionRequest.parse(content)
    _check_model(asked, runtime)
    num_tokens = DEFAULT_COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    params = asked.sampling(
        max_tokens=_within_limit("max_tokens", num_tokens, runtime), logprobs=asked.logprobs, echo=asked.echo
    )
    answer = CompletionAnswer(
        model=runtime.identity.name,
        version=runtime.identity.version,
        tokenizer=runtime.engine.tokenizer,
        prompt=asked.prompt,
        echo=asked.echo,
        logprobs=asked.logprobs is not None,
    )
    prompt = runtime.engine.encode(asked.prompt) if isinstance(asked.prompt, str) else tuple(asked.prompt)
    return Plan(prompt, params, answer, asked.stream, asked.stream_options.include_usage)


def _plan_chat(content: dict[str, Any], runtime: Runtime) -> Plan:
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
    return Plan(prompt, params, answer, asked.stream, asked.stream_options.include_usage)


def _check_model(asked: Asked, runtime: Runtime) -> None:
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


async def _cancel_when_gone(request: Request, generation: Generation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def _failed(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type=JSON)
