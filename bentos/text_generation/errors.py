"""What a client is told when a request is not answered, in the shape that OpenAI's clients understand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pydantic_core import to_json
from starlette.responses import Response

from pipelines.inference.errors import EngineStopped, QueueFull, RequestRefused

JSON = "application/json"

CLIENT_CLOSED = 499
"""Counted when the client left before its answer (nginx's code); nobody receives it."""


@dataclass
class Refusal(Exception):
    """A request that gets an error instead of an answer."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    """Field of the request that breaks a rule."""

    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the error as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return to_json({"error": error})

    def response(self) -> Response:
        """Return the error as a response."""
        return Response(self.body(), self.status, self.headers, JSON)


def refusal_of(error: Exception) -> Refusal:
    """Return what a client is told about an error; anything unknown is our fault and stays vague."""
    match error:
        case Refusal():
            return error
        case RequestRefused(field=name):
            return Refusal(422, str(error), param=name)
        case QueueFull(retry_after_seconds=seconds):
            return Refusal(
                429, str(error), "rate_limit_error", code="queue_full", headers={"Retry-After": str(math.ceil(seconds))}
            )
        case EngineStopped():
            return Refusal(503, str(error), "service_unavailable", code="stopping", headers={"Retry-After": "1"})
        case _:
            return Refusal(500, "the server failed; its log says why", "server_error")
