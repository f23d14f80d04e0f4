"""Requests that are kept: what a packaged model carries to prove which weights serve and how good they are.

    golden.jsonl      greedy answers of these very weights: exact equality proves identity
    reference.jsonl   held-out prompts with their real continuations: log-probabilities measure quality

One JSON object per line, in fixed order and with sorted keys, so that equal requests give equal bytes. Requests
that were recorded are written the same way; `pipelines.formats.recordings` says where.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from pipelines.artifacts import canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen

GOLDEN_FILE = "golden.jsonl"
REFERENCE_FILE = "reference.jsonl"


class GoldenRequest(Frozen):
    """A prompt and the greedy answer that only these weights give."""

    prompt: str = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    expected_text: str
    expected_tokens: tuple[int, ...] = Field(min_length=1)
    margin: float = Field(gt=0)
    """Smallest lead, in logits, of a chosen token over the runner-up: far above what rounding moves."""


class ReferenceRequest(Frozen):
    """A held-out prompt and the text that really followed it."""

    id: str = Field(min_length=1)
    """Id of the document it was cut from."""

    prompt: str = Field(min_length=1)
    continuation: str = Field(min_length=1)


class RecordedMessage(Frozen):
    """One turn of a recorded conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class RecordedRequest(Frozen):
    """A user's request as it may be sent again: its texts redacted, and no field that says who sent it.

    Only what shapes the answer, and the work that it takes, has a place here; OpenAI's names, None where not given.
    """

    path: Literal["/v1/completions", "/v1/chat/completions"]
    prompt: str | tuple[str, ...] | None = None
    messages: tuple[RecordedMessage, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    stream: bool | None = None
    echo: bool | None = None
    logprobs: int | None = None

    def body(self) -> dict[str, Any]:
        """Return the JSON to send to `path`."""
        return self.model_dump(mode="json", exclude={"path"}, exclude_none=True)


Request = TypeVar("Request", GoldenRequest, ReferenceRequest)


def encode_requests(requests: Iterable[Frozen]) -> bytes:
    """Return requests as JSON lines."""
    return b"".join(canonical_json(request.model_dump(mode="json")) + b"\n" for request in requests)


def write_requests(path: Path, requests: Iterable[GoldenRequest] | Iterable[ReferenceRequest]) -> None:
    """Write requests as JSON lines."""
    path.write_bytes(encode_requests(requests))


def read_requests(path: Path, kind: type[Request]) -> tuple[Request, ...]:
    """Return the requests in a file.

    Raises:
        ArtifactCorrupt: when a line is not a request of this kind.
    """
    return parse_requests(path.read_bytes(), kind, path.name)


def parse_requests(data: bytes, kind: type[Request], name: str) -> tuple[Request, ...]:
    """Return the requests in the bytes of a file of that name.

    Raises:
        ArtifactCorrupt: when a line is not a request of this kind.
    """
    requests = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            requests.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise ArtifactCorrupt(f"{name}, line {number}: not a {kind.__name__}: {error}") from error
    return tuple(requests)
