"""The service under load and in trouble: its ASGI application on a real engine, without a server process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from prometheus_client import CollectorRegistry

from bentos.text_generation import metrics
from bentos.text_generation.answers import CompletionAnswer
from bentos.text_generation.app import Api, IdentityHeaders
from bentos.text_generation.chat import ChatTemplate
from bentos.text_generation.metrics import Metrics
from bentos.text_generation.recording import Recorder
from bentos.text_generation.runtime import Runtime
from pipelines.formats import headers
from pipelines.formats.bento import Identity
from pipelines.formats.provenance import Provenance
from pipelines.inference.engine import Engine
from pipelines.inference.errors import EngineStopped
from pipelines.inference.model import load_model
from pipelines.spec import ServiceConfig
from tests.steps.engine_case import held

DEADLINE_SECONDS = 60.0
LONG = {"prompt": "Return the value", "max_tokens": 100, "temperature": 0}
IDENTITY = Identity(name="tiny-gpt", version="0123456789ab", digest="0" * 64)


class Service:
    """An application with its engine and counters."""

    def __init__(self, model: Path) -> None:
        limits = ServiceConfig(max_batch=1, max_queue=1, max_tokens=110)
        self.registry = CollectorRegistry()
        self.loaded = load_model(model)
        self.engine = Engine(self.loaded, max_batch=limits.max_batch, max_queue=limits.max_queue)
        api = Api()
        api.runtime = Runtime(
            identity=IDENTITY,
            limits=limits,
            provenance=_provenance(),
            engine=self.engine,
            chat=ChatTemplate(model),
            metrics=Metrics(IDENTITY.version, self.registry),
            recorder=Recorder(model / "recorded.jsonl", capacity=0),
        )
        self.app = IdentityHeaders(api.app, api=api)

    def client(self) -> httpx.AsyncClient:
        """Return a client that calls the application directly."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=DEADLINE_SECONDS)

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        return self.registry.get_sample_value(name, {"version": IDENTITY.version, "traffic": "user", **labels}) or 0.0

    async def until_idle(self) -> None:
        """Wait until the engine computes nothing."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.engine.num_running or self.engine.num_waiting:
                await asyncio.sleep(0.005)

    async def until_running(self) -> None:
        """Wait until the engine computes something."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self.engine.num_running:
                await asyncio.sleep(0)


def _provenance() -> Provenance:
    digests = dict.fromkeys(("model_digest", "tokens_digest", "dataset_digest", "code_digest"), "0" * 64)
    return Provenance(name=IDENTITY.name, python_version="3.11", libraries={}, **digests)


@pytest.fixture
def service(tiny_model_folder: Path) -> Iterator[Service]:
    """A service with room for one running and one waiting request."""
    made = Service(tiny_model_folder)
    yield made
    made.engine.close()


def test_a_full_queue_says_when_to_come_back(service: Service) -> None:
    async def story() -> list[httpx.Response]:
        async with service.client() as client:
            return await asyncio.gather(*(client.post("/v1/completions", json=LONG) for _ in range(8)))

    answers = asyncio.run(story())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert len(refused) + sum(answer.status_code == 200 for answer in answers) == 8
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.headers[headers.VERSION] == IDENTITY.version
    assert service.count("slipway_errors_total", kind="rate_limit_error") == len(refused)
    assert service.count("slipway_queue_length") == 0


def test_a_stopping_service_says_so(service: Service) -> None:
    async def story() -> httpx.Response:
        async with service.client() as client:
            running = asyncio.create_task(client.post("/v1/completions", json=LONG))
            await service.until_running()
            await asyncio.to_thread(service.engine.close)
            assert (await running).status_code == 503
            return await client.post("/v1/completions", json=LONG)

    with held(service.engine):
        answer = asyncio.run(story())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert "retry-after" in answer.headers


def test_a_stream_that_breaks_says_so_before_it_breaks(service: Service) -> None:
    async def story() -> bytes:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if sum(message["type"] == "http.response.body" for message in sent) == 1:
                await asyncio.to_thread(service.engine.close)

        with pytest.raises(EngineStopped):
            await service.app(_scope(), _receive({**LONG, "stream": True}, gone=asyncio.Event()), send)
        return b"".join(message.get("body", b"") for message in sent)

    with held(service.engine):
        body = asyncio.run(story())
    *_, last = body.strip().split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping"
    assert b"[DONE]" not in body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_stops_the_computing(service: Service, stream: bool) -> None:
    async def story(let_go: threading.Event) -> None:
        gone = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                gone.set()  # leave when the first piece of a stream is there

        call = asyncio.create_task(service.app(_scope(), _receive({**LONG, "stream": stream}, gone), send))
        await service.until_running()
        if not stream:
            gone.set()
        await call
        let_go.set()
        await service.until_idle()

    with held(service.engine) as let_go:
        asyncio.run(story(let_go))
    assert service.engine.num_passes < LONG["max_tokens"]
    assert service.count("slipway_requests_total", endpoint="/v1/completions", code="499") == 1


def test_an_unexpected_failure_is_counted_and_tells_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(service.engine, "encode", fail)

    async def story() -> httpx.Response:
        async with service.client() as client:
            return await client.post("/v1/completions", json=LONG)

    answer = asyncio.run(story())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert service.count("slipway_requests_total", endpoint="/v1/completions", code="500") == 1


def test_a_failure_in_mid_stream_is_the_server_s(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CompletionAnswer, index: int, chunk: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(CompletionAnswer, "piece", fail)

    async def story() -> bytes:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        with pytest.raises(RuntimeError):
            await service.app(_scope(), _receive({**LONG, "stream": True}, gone=asyncio.Event()), send)
        await service.until_idle()
        return b"".join(message.get("body", b"") for message in sent)

    body = asyncio.run(story())
    assert b"server_error" in body
    assert b"secret" not in body
    assert service.count("slipway_requests_total", endpoint="/v1/completions", code="500") == 1


def test_the_time_limit_is_the_server_s_failure_and_stops_the_computing(service: Service) -> None:
    async def story(let_go: threading.Event) -> None:
        transport = httpx.ASGITransport(app=TimeoutMiddleware(service.app, timeout=0.001))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert (await client.post("/v1/completions", json=LONG)).status_code == 504
        let_go.set()
        await service.until_idle()

    with held(service.engine) as let_go:
        asyncio.run(story(let_go))
    assert service.engine.num_passes < LONG["max_tokens"]
    assert service.count("slipway_requests_total", endpoint="/v1/completions", code="504") == 1
    assert service.count("slipway_errors_total", kind="timeout") == 1


def test_log_probabilities_that_are_no_numbers_make_an_invalid_answer(service: Service) -> None:
    def answer(**fields: Any) -> httpx.Response:
        async def story() -> httpx.Response:
            async with service.client() as client:
                return await client.post("/v1/completions", json={**LONG, "max_tokens": 1, **fields})

        return asyncio.run(story())

    assert answer().status_code == 200
    assert service.count("slipway_invalid_answers_total") == 0
    service.loaded.model.lm_head.weight[5] = torch.nan
    assert answer(logprobs=0).json()["choices"][0]["logprobs"]["token_logprobs"] == [None]
    assert answer().status_code == answer(stream=True).status_code == 200
    assert service.count("slipway_answers_total") == 4
    assert service.count("slipway_invalid_answers_total") == 3


def test_prompts_of_one_request_wait_together_or_not_at_all(service: Service) -> None:
    async def story() -> httpx.Response:
        async with service.client() as client:
            return await client.post("/v1/completions", json={**LONG, "prompt": ["a", "b"]})

    answer = asyncio.run(story())
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "prompt")
    assert service.engine.num_passes == 0


def test_dead_workers_no_longer_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead, alive = int(finished.stdout), os.getpid()
    for pid in (dead, alive):
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics.forget_dead_processes()
    assert [path.name for path in tmp_path.iterdir()] == [f"gauge_livesum_{alive}.db"]


def _scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"service")],
    }


def _receive(content: dict[str, Any], gone: asyncio.Event) -> Any:
    messages = iter([{"type": "http.request", "body": json.dumps(content).encode()}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
