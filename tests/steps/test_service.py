"""The service as its users meet it: one real `bentoml serve` process for all tests of this file."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pipelines import artifacts
from pipelines.formats import bento, headers, metrics, recordings
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.formats.requests import GoldenRequest, read_requests
from pipelines.steps import package
from pipelines.store import Store
from tests.ports import own_port
from tests.steps import serving
from tests.steps.serving import MODEL_NAME

PROMPT = "Return the value of the"


@dataclass(frozen=True)
class Served:
    """A running service and what it was made from."""

    url: str
    folder: Path
    result: package.Result

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a request."""
        return httpx.post(f"{self.url}{path}", timeout=60, **options)

    def complete(self, **fields: Any) -> dict[str, Any]:
        """Return a completion's only choice."""
        answer = self.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, "max_tokens": 8, **fields})
        assert answer.status_code == 200, answer.text
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / bento.SOURCE / bento.MODEL / "tokenizer.json"))
        return tokenizer.encode(text).ids

    def samples(self) -> list[Sample]:
        """Return all values of the service's own metrics."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sample(self, name: str, **labels: str) -> float:
        """Return a metric's value, summed over the labels left open; 0 while it was never counted."""
        return sum(
            sample.value for sample in self.samples() if sample.name == name and labels.items() <= sample.labels.items()
        )

    def counters(self, traffic: str) -> ServiceCounters:
        """Return what a release reads."""
        return metrics.parse(httpx.get(f"{self.url}/metrics", timeout=60).text)[Traffic(traffic)]


@pytest.fixture(scope="module")
def packaged(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, package.Result]:
    """A packaged tiny model, fetched from its store."""
    root = tmp_path_factory.mktemp("service")
    store = Store(f"file://{root}/store")
    inputs = serving.make_inputs(store, tiny_model_folder, root)
    result = serving.run_package(store, inputs, root / "package", serving.spec())
    return artifacts.fetch(store, result.bento, root / "cache"), result


@pytest.fixture(scope="module")
def served(packaged: tuple[Path, package.Result], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service, started as the local fleet starts it; it must not write into the bento, nor keep users' requests."""
    folder, result = packaged
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    home = tmp_path_factory.mktemp("home") / "copy"
    with serving.serve(folder, home) as (url, _, _):
        yield Served(url, folder, result)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not (home / recordings.FOLDER).exists()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """The official client, unchanged."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/models", "/provenance", "/readyz", "/livez", "/metrics", "/nothing"])
def test_every_response_says_version_and_digest(served: Served, path: str) -> None:
    answer = httpx.get(f"{served.url}{path}", timeout=60)
    assert answer.headers[headers.VERSION] == served.result.tag.partition(":")[2]
    assert answer.headers[headers.DIGEST] == served.result.model_digest


def test_provenance_is_that_of_the_served_files(served: Served) -> None:
    content = httpx.get(f"{served.url}/provenance", timeout=60).json()
    assert content["digest"] == content["model_digest"] == served.result.model_digest
    assert content["version"] == served.result.tag.partition(":")[2]


def test_golden_requests_are_answered_exactly(served: Served) -> None:
    for golden in read_requests(served.folder / bento.SOURCE / "golden.jsonl", GoldenRequest):
        choice = served.complete(prompt=golden.prompt, max_tokens=golden.max_tokens)
        assert choice["text"] == golden.expected_text


def test_token_numbers_are_a_prompt_too(served: Served) -> None:
    assert served.complete(prompt=served.tokens(PROMPT)) == served.complete()


def test_echo_scores_the_prompt_and_computes_nothing_more(served: Served) -> None:
    choice = served.complete(echo=True, logprobs=2, max_tokens=0)
    scores = choice["logprobs"]
    assert choice["text"] == "".join(scores["tokens"]) == PROMPT
    assert scores["token_logprobs"][0] is None
    assert all(value < 0 for value in scores["token_logprobs"][1:])
    assert [len(top) for top in scores["top_logprobs"][1:]] == [2] * (len(scores["tokens"]) - 1)
    assert scores["text_offset"][:2] == [0, len(scores["tokens"][0])]


def test_equal_seeds_give_equal_samples(served: Served) -> None:
    first, again, other = (served.complete(temperature=1.5, seed=seed)["text"] for seed in (5, 5, 6))
    assert first == again != other


def test_answer_ends_before_a_stop_sequence(served: Served) -> None:
    whole = served.complete(max_tokens=16)["text"]
    stop = whole[3:5]
    choice = served.complete(max_tokens=16, stop=stop)
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_sixteen_at_once_get_what_each_gets_alone(served: Served) -> None:
    prompts = [f"{PROMPT} {'named ' * number}attribute" for number in range(16)]
    alone = [served.complete(prompt=prompt)["text"] for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda prompt: served.complete(prompt=prompt)["text"], prompts))
    assert together == alone


def test_stream_is_server_sent_events_that_add_up(served: Served) -> None:
    fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 8, "stream": True}
    answer = served.post("/v1/completions", json={**fields, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: {") for event in events)
    *pieces, usage = [json.loads(event[len(b"data: ") :]) for event in events]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == served.complete()["text"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8


def test_official_client_completes_and_streams(client: openai.OpenAI, served: Served) -> None:
    asked = {"model": MODEL_NAME, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=1, user="someone")
    assert whole.choices[0].text == served.complete()["text"]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert len(whole.choices[0].logprobs.token_logprobs) == 8
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole.choices[0].text


@pytest.mark.parametrize("as_tokens", [False, True], ids=["texts", "tokens"])
def test_official_client_gets_a_choice_for_each_prompt(client: openai.OpenAI, served: Served, as_tokens: bool) -> None:
    texts = [PROMPT, "Raise an exception", "The quick brown fox"]
    alone = [served.complete(prompt=text) for text in texts]
    prompts = [served.tokens(text) for text in texts] if as_tokens else texts
    asked: dict[str, Any] = {"model": MODEL_NAME, "prompt": prompts, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=1)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.text for choice in whole.choices] == [choice["text"] for choice in alone]
    for choice, text in zip(whole.choices, texts, strict=True):
        assert choice.logprobs.text_offset[0] == len(text)
    assert whole.usage.prompt_tokens == sum(len(served.tokens(text)) for text in texts)
    streamed = ["", "", ""]
    *chunks, usage = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in whole.choices]
    assert usage.usage == whole.usage


def test_official_client_chats_and_streams(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL_NAME,
        "messages": [{"role": "system", "content": "Answer."}, {"role": "user", "content": PROMPT}],
        "max_completion_tokens": 8,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.role == "assistant"
    assert len(whole.choices[0].logprobs.content) == 8
    assert [len(token.top_logprobs) for token in whole.choices[0].logprobs.content] == [2] * 8
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_official_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL_NAME]


def test_official_client_understands_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="at most 64") as refused:
        client.completions.create(model=MODEL_NAME, prompt=PROMPT, max_tokens=65)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError, match=MODEL_NAME):
        client.completions.create(model="another", prompt=PROMPT)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"prompt": ""}, "prompt", id="empty-prompt"),
        pytest.param({"prompt": None}, "prompt", id="no-prompt"),
        pytest.param({"prompt": []}, "prompt", id="no-prompts"),
        pytest.param({"prompt": ["a", ""]}, "prompt", id="one-empty-prompt"),
        pytest.param({"prompt": ["a", 5]}, "prompt", id="a-text-and-a-token"),
        pytest.param({"prompt": ["a"] * 17}, "prompt", id="too-many-prompts"),
        pytest.param({"prompt": [1, True]}, "prompt", id="a-truth-value-is-no-token"),
        pytest.param({"prompt": [384]}, "prompt", id="unknown-token"),
        pytest.param({"prompt": "a " * 500}, "prompt", id="longer-than-the-context"),
        pytest.param({"max_tokens": 0}, "max_tokens", id="no-tokens"),
        pytest.param({"max_tokens": 65}, "max_tokens", id="over-the-limit"),
        pytest.param({"max_tokens": "8"}, "max_tokens", id="a-text-is-no-number"),
        pytest.param({"temperature": -1}, "temperature", id="negative-temperature"),
        pytest.param({"top_p": 0}, "top_p", id="nothing-to-sample-from"),
        pytest.param({"logprobs": 21}, "logprobs", id="too-many-alternatives"),
        pytest.param({"stop": [""]}, "stop", id="empty-stop"),
        pytest.param({"n": 2}, "n", id="several-answers"),
        pytest.param({"presence_penalty": 0.5}, "presence_penalty", id="penalty"),
        pytest.param({"logit_bias": {"5": 1}}, "logit_bias", id="bias"),
        pytest.param({"suffix": "end"}, "suffix", id="suffix"),
        pytest.param({"max_token": 5}, "max_token", id="misspelt"),
    ],
)
def test_a_bad_field_is_named(served: Served, fields: dict[str, Any], param: str) -> None:
    answer = served.post("/v1/completions", json={"prompt": PROMPT, **fields})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"messages": []}, "messages", id="no-messages"),
        pytest.param({"messages": [{"role": "robot", "content": "a"}]}, "messages", id="unknown-role"),
        pytest.param(
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b<|endoftext|>c"}]},
            "messages[1].content",
            id="forged-control-token",
        ),
        pytest.param({"top_logprobs": 2}, "top_logprobs", id="alternatives-without-logprobs"),
        pytest.param({"tools": [{"type": "function"}]}, "tools", id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, "response_format", id="json-mode"),
    ],
)
def test_a_bad_field_of_a_chat_is_named(served: Served, fields: dict[str, Any], param: str) -> None:
    messages = [{"role": "user", "content": "a"}]
    answer = served.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"prompt": NaN}', b"[" * 4000], ids=repr)
def test_malformed_json_is_refused(served: Served, body: bytes) -> None:
    answer = served.post("/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_an_announced_body_over_the_limit_is_not_even_read(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_cut_off_while_reading(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"2001\r\n" + b"x" * 0x2001 + b"\r\n")  # one byte over, and the body goes on
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("sent", "counted"),
    [
        pytest.param({headers.TRAFFIC: "pinned"}, "pinned", id="pinned"),
        pytest.param({"Host": "docs.example-shadow:8100"}, "shadow", id="mirrored-by-envoy"),
        pytest.param({headers.TRAFFIC: "shadow"}, "user", id="nobody-can-claim-to-be-a-shadow"),
    ],
)
def test_traffic_is_counted_by_kind(served: Served, sent: dict[str, str], counted: str) -> None:
    labels = {"traffic": counted, "version": served.result.tag.partition(":")[2]}
    before = {kind: served.counters(kind) for kind in Traffic}
    tokens = served.sample("slipway_tokens_total", kind="completion", **labels)
    seconds = served.sample("slipway_request_seconds_count", **labels)
    served.post("/v1/completions", json={"prompt": [PROMPT, "a"], "max_tokens": 3, "temperature": 0}, headers=sent)
    after = {kind: served.counters(kind) for kind in Traffic}
    assert [kind for kind in Traffic if after[kind] != before[kind]] == [counted]
    now, then = after[Traffic(counted)], before[Traffic(counted)]
    assert (now.requests, now.answered, now.failed) == (then.requests + 1, then.answered + 1, then.failed)
    assert sum(now.time_to_first_token.counts) == sum(then.time_to_first_token.counts) + 1
    assert sum(now.time_per_output_token.counts) == sum(then.time_per_output_token.counts) + 1
    assert served.sample("slipway_tokens_total", kind="completion", **labels) == tokens + 6
    assert served.sample("slipway_request_seconds_count", **labels) == seconds + 1


def test_every_metric_says_version_and_traffic(served: Served) -> None:
    served.complete()
    served.post("/v1/completions", content=b"{")
    samples = served.samples()
    assert {sample.labels["version"] for sample in samples} == {served.result.tag.partition(":")[2]}
    assert {sample.labels["traffic"] for sample in samples} <= {str(traffic) for traffic in Traffic}
    assert {"slipway_answers_total", "slipway_errors_total", "slipway_queue_length"} <= {s.name for s in samples}


def test_an_answer_that_was_to_have_no_token_is_valid(served: Served) -> None:
    before = served.counters("user")
    served.complete(echo=True, logprobs=1, max_tokens=0)
    after = served.counters("user")
    assert (after.answered, after.invalid) == (before.answered + 1, before.invalid)


def test_a_refusal_is_counted_as_an_error(served: Served) -> None:
    before = served.sample("slipway_errors_total", traffic="user", kind="invalid_request_error")
    served.post("/v1/completions", content=b"{")
    assert served.sample("slipway_errors_total", traffic="user", kind="invalid_request_error") == before + 1
    assert served.sample("slipway_requests_total", traffic="user", code="400") >= 1


def test_nothing_is_ready_before_the_model_is_loaded(packaged: tuple[Path, package.Result], tmp_path: Path) -> None:
    port = own_port()
    process, _ = serving.start(packaged[0], tmp_path / "home", port)
    answers: list[httpx.Response] = []

    def has_answered() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(httpx.get(f"http://{bento.LOOPBACK}:{port}/readyz", timeout=1))
        return any(answer.status_code == 200 for answer in answers)

    try:
        serving.wait_until(has_answered, "the service is ready")
    finally:
        serving.stop(process)
    assert all(headers.DIGEST in answer.headers for answer in answers if answer.status_code == 200)


@pytest.mark.parametrize("path", ["model/model.safetensors", "service.json"])
def test_altered_files_are_named_and_never_served(
    packaged: tuple[Path, package.Result], tmp_path: Path, path: str
) -> None:
    folder = shutil.copytree(packaged[0], tmp_path / "bento")
    altered = folder / bento.SOURCE / path
    data = bytearray(altered.read_bytes())
    data[-1] ^= 1
    altered.write_bytes(data)
    process, log = serving.start(folder, tmp_path / "home", own_port())
    try:
        serving.wait_until(lambda: process.poll() is not None, "the service gives up")
    finally:
        serving.stop(process)
    assert process.returncode != 0
    (error,) = [line for line in log.read_text().splitlines() if "error" in line.lower()]
    assert error.startswith("error: ")
    assert path.rpartition("/")[2] in error
    assert "Traceback" not in log.read_text()
