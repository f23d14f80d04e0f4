"""Requests through the router: does this very version answer, and does a user reach it?"""

from __future__ import annotations

from typing import Any

import httpx

from pipelines import artifacts
from pipelines.errors import ArtifactCorrupt
from pipelines.formats import headers
from pipelines.formats.bento import SOURCE
from pipelines.formats.requests import GOLDEN_FILE, GoldenRequest, parse_requests
from pipelines.ledger import Version
from pipelines.release.ports import ProbeFailed, Served, SmokeReport
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
            body = {
                "model": version.service,
                "prompt": request.prompt,
                "max_tokens": request.max_tokens,
                "temperature": 0,
            }
            answer = self._ask("POST", port, "/v1/completions", json=body, headers={headers.PIN: "canary"})
            served = _served(answer)
            if not served.is_of(version):
                return SmokeReport(passed=False, evidence=f"golden request {number} was answered by {served}")
            text = _completion(answer)
            if text != request.expected_text:
                evidence = f"golden request {number}: expected {request.expected_text!r}, got {text!r}"
                return SmokeReport(passed=False, evidence=evidence)
        return SmokeReport(passed=True, evidence=f"{len(requests)} golden requests answered exactly")

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

    def _ask(self, method: str, port: int, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._client.request(method, f"http://{HOST}:{port}{path}", **arguments)
        except httpx.HTTPError as error:
            raise ProbeFailed(f"{path} through the router: {error or type(error).__name__}") from error
        if not response.is_success:
            raise ProbeFailed(f"{path} through the router: {response.status_code} {response.text[:200].strip()}")
        return response


def _served(response: httpx.Response) -> Served:
    return Served(
        version=response.headers.get(headers.VERSION, "unknown"), digest=response.headers.get(headers.DIGEST, "unknown")
    )


def _completion(response: httpx.Response) -> str:
    try:
        return str(response.json()["choices"][0]["text"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ProbeFailed(f"a golden request was answered without a completion: {response.text[:200]}") from error
