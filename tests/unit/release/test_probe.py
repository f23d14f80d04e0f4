"""Requests through the router: exact answers pass, anything else says what was seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pipelines import artifacts
from pipelines.errors import ArtifactCorrupt
from pipelines.formats.requests import GoldenRequest, RecordedMessage, RecordedRequest, write_requests
from pipelines.ledger import Version
from pipelines.release.ports import Arm, ProbeFailed, Served
from pipelines.release.probe import HttpProbe
from pipelines.store import Store
from tests.unit.release.fakes import candidate

GOLDEN = GoldenRequest(prompt="Once", max_tokens=4, expected_text=" upon", expected_tokens=(1, 2), margin=1.0)
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def version(store: Store, tmp_path: Path) -> Version:
    source = tmp_path / "bento" / "src"
    source.mkdir(parents=True)
    write_requests(source / "golden.jsonl", [GOLDEN])
    ref = artifacts.publish(store, "bento", tmp_path / "bento")
    return Version(**{**candidate("one").model_dump(), "bento": ref}, id=1, number=1, run_id="run-1")


def answered(version: Version, text: str = " upon", **headers: str) -> Answer:
    identity = {"X-Slipway-Version": version.bento_version, "X-Slipway-Digest": version.model.digest}
    return lambda _request: httpx.Response(200, json={"choices": [{"text": text}]}, headers={**identity, **headers})


def probe(store: Store, answer: Answer) -> HttpProbe:
    return HttpProbe(store, transport=httpx.MockTransport(answer))


def test_golden_requests_go_to_the_canary_and_ask_for_greedy_answers(store: Store, version: Version) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answered(version)(request)

    report = probe(store, answer).smoke(8100, version)
    assert (report.passed, report.evidence) == (True, "1 golden requests answered exactly")
    assert requests[0].url == "http://127.0.0.1:8100/v1/completions"
    assert requests[0].headers["X-Slipway-Pin"] == "canary"
    assert json.loads(requests[0].content) == {"model": "docs", "prompt": "Once", "max_tokens": 4, "temperature": 0}


@pytest.mark.parametrize(
    ("text", "headers", "evidence"),
    [
        pytest.param(" a", {}, "golden request 0: expected ' upon', got ' a'", id="another-text"),
        pytest.param(" upon", {"X-Slipway-Digest": "f" * 64}, "was answered by version one, digest fff", id="weights"),
        pytest.param(" upon", {"X-Slipway-Version": "two"}, "was answered by version two", id="another-version"),
    ],
)
def test_what_is_not_exact_fails_with_evidence(
    store: Store, version: Version, text: str, headers: dict[str, str], evidence: str
) -> None:
    report = probe(store, answered(version, text, **headers)).smoke(8100, version)
    assert not report.passed
    assert evidence in report.evidence


def test_an_answer_that_did_not_come_says_nothing_about_the_weights(store: Store, version: Version) -> None:
    busy = probe(store, lambda _request: httpx.Response(429, text="the queue is full"))
    with pytest.raises(ProbeFailed, match="429 the queue is full"):
        busy.smoke(8100, version)

    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ProbeFailed, match="connection refused"):
        probe(store, refuse).served(8100)


@pytest.mark.parametrize("status", [200, 422, 429, 500])
def test_a_recorded_request_is_pinned_and_any_answer_will_do(store: Store, status: int) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, text="prompt: too long, got 'my secret'")

    turns = (RecordedMessage(role="user", content="my secret"),)
    recorded = RecordedRequest(path="/v1/chat/completions", messages=turns, max_tokens=4)
    probe(store, answer).repeat(8100, Arm.STABLE, recorded)
    assert [request.url for request in requests] == ["http://127.0.0.1:8100/v1/chat/completions"]
    assert requests[0].headers["X-Slipway-Pin"] == "stable"
    assert json.loads(requests[0].content) == {
        "messages": [{"role": "user", "content": "my secret"}],
        "max_tokens": 4,
    }


def test_a_recorded_request_without_an_answer_says_so_and_not_what_was_asked(store: Store) -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    with pytest.raises(ProbeFailed, match="/v1/completions through the router: timed out") as raised:
        probe(store, refuse).repeat(8100, Arm.CANARY, RecordedRequest(path="/v1/completions", prompt="my secret"))
    assert "secret" not in str(raised.value)


def test_an_endpoint_without_our_headers_is_nobody_we_know(store: Store, version: Version) -> None:
    served = probe(store, lambda _request: httpx.Response(200)).served(8100)
    assert served == Served("unknown", "unknown")
    assert not served.is_of(version)


def test_damaged_golden_requests_are_named(store: Store, version: Version) -> None:
    store.put(f"{version.bento.uri}/src/golden.jsonl", b"{}\n")
    with pytest.raises(ArtifactCorrupt, match=r"src/golden\.jsonl differs from its manifest"):
        probe(store, answered(version)).smoke(8100, version)
