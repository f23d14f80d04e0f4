"""The HTTP side of the service: OpenAI's routes, errors, streams, headers and counts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bentos.text_generation.body import read_json
from bentos.text_generation.errors import CLIENT_CLOSED, JSON, Refusal, refusal_of
from bentos.text_generation.metrics import exposition
from bentos.text_generation.plan import Plan, plan_chat, plan_completion
from pipelines.errors import SlipwayError
from pipelines.formats import headers
from pipelines.formats.headers import Traffic, traffic_of
from pipelines.inference.generation import Generation, merge
from pipelines.inference.request import FinishReason

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from bentos.text_generation.runtime import Runtime

DONE = b"data: [DONE]\n\n"
_COPY = os.environ.get(headers.COPY_VARIABLE)
"""Which copy this process is part of; None: nobody said."""


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
        return await Call(self._loaded(), request, "/v1/completions").answer(plan_completion)

    async def chat_completions(self, request: Request) -> Response:
        """Continue a conversation."""
        return await Call(self._loaded(), request, "/v1/chat/completions").answer(plan_chat)

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
        told = request.headers
        self._traffic: Traffic = traffic_of(told.get(headers.TRAFFIC), told.get("host"), told.get(headers.COPY), _COPY)

    async def answer(self, make_plan: Callable[[dict[str, Any], Runtime], Plan]) -> Response:
        """Return the response; errors become OpenAI's error objects."""
        try:
            content = await read_json(self._request, self._runtime.limits.max_body_bytes)
            plan = make_plan(content, self._runtime)
            generations = self._runtime.submit(plan.prompts, plan.params, self._traffic)
            if self._traffic is Traffic.USER:
                self._runtime.recorder.note(plan.asked)
            if plan.stream:
                return StreamingResponse(self._events(plan, generations), media_type="text/event-stream")
            return await self._whole(plan, generations)
        except (Refusal, SlipwayError) as error:
            refusal = refusal_of(error)
            self._over(refusal.status, refusal.kind)
            return refusal.response()
        except ClientDisconnect:
            self._over(CLIENT_CLOSED, "client_closed")
            raise
        except asyncio.CancelledError:  # BentoML's time limit; a client that leaves cancels no task
            self._over(504, "timeout")
            raise
        except Exception:
            self._over(500, "server_error")
            raise

    async def _whole(self, plan: Plan, generations: Sequence[Generation]) -> Response:
        watch = asyncio.create_task(_cancel_when_gone(self._request, generations))
        try:
            completions = [await generation.completion() for generation in generations]
        finally:
            watch.cancel()
            self._runtime.release(generations)
        if any(completion.finish_reason is FinishReason.CANCELLED for completion in completions):
            self._over(CLIENT_CLOSED, "client_closed")
            return Response(status_code=CLIENT_CLOSED)
        response = _json(plan.answer.whole(completions))
        self._runtime.metrics.generated(self._traffic, completions)
        self._over(200)
        return response

    async def _events(self, plan: Plan, generations: Sequence[Generation]) -> AsyncIterator[bytes]:
        """Yield server-sent events; a failure in mid-stream is an event, then a broken connection."""
        code, kind = CLIENT_CLOSED, "client_closed"
        try:
            for opening in plan.answer.opening():
                yield _event(opening)
            async with aclosing(merge(generations)) as pieces:
                async for index, chunk in pieces:
                    yield _event(plan.answer.piece(index, chunk))
            completions = [generation.result() for generation in generations]
            self._runtime.metrics.generated(self._traffic, completions)
            if plan.include_usage:
                yield _event(plan.answer.usage(completions))
            yield DONE
            code, kind = 200, ""
        except Exception as error:
            refusal = refusal_of(error)
            code, kind = refusal.status, refusal.kind
            yield b"data: " + refusal.body() + b"\n\n"
            raise
        finally:
            self._runtime.release(generations)
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


async def _cancel_when_gone(request: Request, generations: Sequence[Generation]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    for generation in generations:
        generation.cancel()


async def _failed(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + _encoded(content) + b"\n\n"


def _json(content: dict[str, Any]) -> Response:
    return Response(_encoded(content), media_type=JSON)


def _encoded(content: dict[str, Any]) -> bytes:
    return to_json(content, inf_nan_mode="null")  # JSON has no word for a log-probability that is no number
