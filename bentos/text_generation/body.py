"""Read a request's body within its limit."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json
from starlette.requests import Request

from bentos.text_generation.errors import Refusal


async def read_json(request: Request, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a request's body; reading stops at the limit, whatever the client announced.

    Raises:
        Refusal: 413 when the body is too large, 400 when it is not a JSON object.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    try:
        content = from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise Refusal(400, f"the body must be a JSON object, got {type(content).__name__}", code="invalid_json")
    return content


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413, f"the body must be at most {max_bytes} bytes", code="body_too_large", headers={"Connection": "close"}
    )
