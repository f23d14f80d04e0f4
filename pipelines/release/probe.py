"""Requests through the router: does this very version answer, and does a user reach it?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import httpx

from pipelines import artifacts
from pipelines.errors import ArtifactCorrupt
from pipelines.formats import headers
from pipelines.formats.bento import SOURCE
from pipelines.formats.requests import (
    GOLDEN_FILE,
    GoldenRequest,
    RecordedRequest,
    ReferenceRequest,
    parse_requests,
)
from pipelines.ledger import Version
from pipelines.release.ports import Arm, ProbeFailed, Served, SmokeReport
from pipelines.store import Store

TIMEOUT_SECONDS = 60.0
HOST = "127.0.0.1"


class HttpProbe:
    """See `pipelines.release.ports.Probe`."""

    def __init__(self, store: Store, transport: httpx.BaseTransport | None = None) -> None:
        self._store = store
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, transport=transport)

    def smoke(self, port: int, version: Version) -> SmokeReport:
        """Send every golden request to the canary; answers and the digest in their headers must be exactly right.

        Raises:
            ProbeFailed: when an answer did not come.
            ArtifactCorrupt: when the golden requests themselves are damaged or missing.
        """
        requests = self._golden(version)
        for number, request in enumerate(requests):
            answer = self._complete(port, Arm.CANARY, version.service, request)
            served = _served(answer)
            if not served.is_of(version):
                return SmokeReport(passed=False, evidence=f"golden request {number} was answered by {served}")
            text = _completion(answer)
            if text != request.expected_text:
                evidence = f"golden request {number}: expected {request.expected_text!r}, got {text!r}"
                return SmokeReport(passed=False, evidence=evidence)
        return SmokeReport(passed=True, evidence=f"{len(requests)} golden requests answered exactly")

    def warm_up(self, port: int, version: Version, count: int) -> None:
        """Send golden requests to the canary, round and round; their answers were compared before.

        Raises:
            ProbeFailed: when an answer did not come.
        """
        for request in itertools.islice(itertools.cycle(self._golden(version)), count):
            self._complete(port, Arm.CANARY, version.service, request)

    def score(self, port: int, arm: Arm, reference: ReferenceRequest) -> float | None:
        """Ask for the log-probabilities of a prompt with its continuation, generating nothing.

        Raises:
            ProbeFailed: when no answer came.
        """
        text = reference.prompt + reference.continuation
        body = {"prompt": text, "max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 0}
        found = _logprobs(self._ask("POST", port, "/v1/completions", json=body, headers={headers.PIN: arm}))
        scores = [score for offset, score in found if offset >= len(reference.prompt)]
        if not scores or any(score is None or not math.isfinite(score) for score in scores):
            return None
        return sum(score for score in scores if score is not None) / len(reference.continuation.encode())

    def repeat(self, port: int, arm: Arm, request: RecordedRequest) -> None:
        """Send a recorded request; what it is answered is counted elsewhere, and may repeat a user's words.

        Raises:
            ProbeFailed: when no answer came.
        """
        self._send("POST", port, request.path, json=request.body(), headers={headers.PIN: arm})

    def interface(self, port: int, arm: Arm) -> frozenset[str]:
        """Read the arm's OpenAPI document.

        Raises:
            ProbeFailed: when no answer came.
        """
        document = _json(self._ask("GET", port, "/docs.json", headers={headers.PIN: arm}))
        return frozenset(interface_of(document))

    def served(self, port: int) -> Served:
        """Ask as a user who serves.

        Raises:
            ProbeFailed: when no version answers.
        """
        return _served(self._ask("GET", port, "/provenance"))

    def _golden(self, version: Version) -> tuple[GoldenRequest, ...]:
        path = f"{SOURCE}/{GOLDEN_FILE}"
        requests = parse_requests(artifacts.read_file(self._store, version.bento, path), GoldenRequest, path)
        if not requests:
            raise ArtifactCorrupt(f"bento {version.tag}: {path} holds no golden request; package the model again")
        return requests

    def _complete(self, port: int, arm: Arm, model: str, request: GoldenRequest) -> httpx.Response:
        body = {"model": model, "prompt": request.prompt, "max_tokens": request.max_tokens, "temperature": 0}
        return self._ask("POST", port, "/v1/completions", json=body, headers={headers.PIN: arm})

    def _ask(self, method: str, port: int, path: str, **arguments: Any) -> httpx.Response:
        response = self._send(method, port, path, **arguments)
        if not response.is_success:
            raise ProbeFailed(f"{path} through the router: {response.status_code} {response.text[:200].strip()}")
        return response

    def _send(self, method: str, port: int, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._client.request(method, f"http://{HOST}:{port}{path}", **arguments)
        except httpx.HTTPError as error:
            raise ProbeFailed(f"{path} through the router: {error or type(error).__name__}") from error


def _served(response: httpx.Response) -> Served:
    return Served(
        version=response.headers.get(headers.VERSION, "unknown"), digest=response.headers.get(headers.DIGEST, "unknown")
    )


def interface_of(document: Any) -> Iterator[str]:
    """Yield the endpoints of an OpenAPI document, and the fields of every schema that an answer may have."""
    for path, methods in sorted(document.get("paths", {}).items()):
        for method in sorted(methods):
            yield f"{method.upper()} {path}"
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        for field in sorted(schema.get("properties", {})):
            yield f"{name}.{field}"


def _completion(response: httpx.Response) -> str:
    return str(_choice(response)["text"])


def _logprobs(response: httpx.Response) -> list[tuple[int, float | None]]:
    """Return the offset in the text and the log-probability of every token."""
    found = _choice(response)["logprobs"] or {}
    return list(zip(found.get("text_offset", []), found.get("token_logprobs", []), strict=True))


def _choice(response: httpx.Response) -> dict[str, Any]:
    try:
        return dict(_json(response)["choices"][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ProbeFailed(f"a request was answered without a completion: {response.text[:200]}") from error


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ProbeFailed(f"an answer is not JSON: {response.text[:200]}") from error
