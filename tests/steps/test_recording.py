"""What a worker keeps of its users' requests: the last ones, short ones, redacted, never who sent them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bentos.text_generation.protocol import ChatRequest, CompletionRequest
from bentos.text_generation.recording import MAX_CHARACTERS, MAX_PER_FLUSH, Asked, Recorder
from pipelines.formats import recordings
from pipelines.formats.requests import RecordedMessage, RecordedRequest
from pipelines.spec import ServiceConfig

PRIVATE = {
    "user": "jane",
    "metadata": {"customer": "jane"},
    "safety_identifier": "jane",
    "prompt_cache_key": "jane",
    "seed": 5,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return recordings.path_of(tmp_path, 1)


def completion(prompt: Any, **fields: Any) -> CompletionRequest:
    return CompletionRequest.parse({"prompt": prompt, **fields})


def chat(*contents: Any, **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": [{"role": "user", "content": text} for text in contents], **fields})


def kept(path: Path, *requests: Asked, capacity: int = 100) -> tuple[RecordedRequest, ...]:
    """Return what a recorder's file holds after these requests."""
    recorder = Recorder(path, capacity)
    for asked in requests:
        recorder.note(asked)
    recorder.flush()
    return recordings.read(path)


def prompts(found: tuple[RecordedRequest, ...]) -> list[str]:
    return [str(request.prompt) for request in found]


def test_a_completion_is_kept_with_what_shapes_its_answer(path: Path) -> None:
    asked = completion(
        ["Ask jane@example.org", "b"], max_tokens=9, temperature=0.5, top_p=0.9, stop="0170 1234567", **PRIVATE
    )
    assert kept(path, asked) == (
        RecordedRequest(
            path="/v1/completions",
            prompt=("Ask <email>", "b"),
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            stop=("<number>",),
            stream=False,
            echo=False,
        ),
    )
    assert b"jane" not in path.read_bytes()


def test_a_conversation_is_kept_without_names(path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind to jane@example.org"},
        {
            "role": "user",
            "name": "jane",
            "content": [{"type": "text", "text": "Hi from "}, {"type": "text", "text": "::"}],
        },
    ]
    asked = ChatRequest.parse({"messages": messages, "max_completion_tokens": 7, "stream": True, **PRIVATE})
    assert kept(path, asked) == (
        RecordedRequest(
            path="/v1/chat/completions",
            messages=(
                RecordedMessage(role="system", content="Be kind to <email>"),
                RecordedMessage(role="user", content="Hi from ::"),
            ),
            max_tokens=7,
            temperature=1.0,
            top_p=1.0,
            stream=True,
        ),
    )
    assert b"jane" not in path.read_bytes()


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(completion("a", max_tokens=0, echo=True, logprobs=0), id="scored"),
        pytest.param(completion(["a", "b"], stream=True, stop=["c"]), id="several"),
        pytest.param(chat("a", "b", temperature=0), id="conversation"),
    ],
)
def test_what_is_kept_can_be_asked_again(path: Path, asked: Asked) -> None:
    (found,) = kept(path, asked)
    again = type(asked).parse(found.body())
    assert again == asked.model_copy(update={"seed": again.seed})


@pytest.mark.parametrize(
    ("asked", "is_kept"),
    [
        pytest.param(completion("a" * MAX_CHARACTERS), True, id="longest"),
        pytest.param(completion("a" * (MAX_CHARACTERS + 1)), False, id="too-long"),
        pytest.param(completion(["a" * MAX_CHARACTERS, "b"]), False, id="too-long-together"),
        pytest.param(chat("a" * MAX_CHARACTERS), False, id="too-long-with-its-role"),
        pytest.param(chat(*[""] * MAX_CHARACTERS), False, id="too-many-messages"),
        pytest.param(completion([5, 6, 7]), False, id="token-numbers-cannot-be-redacted"),
        pytest.param(completion(["a", [5, 6]]), False, id="token-numbers-among-texts"),
    ],
)
def test_only_short_texts_are_kept(path: Path, asked: Asked, is_kept: bool) -> None:
    assert bool(kept(path, asked)) is is_kept
    assert path.exists() is is_kept


def test_the_last_ones_are_kept(path: Path) -> None:
    assert prompts(kept(path, *[completion(f"p{number}") for number in range(5)], capacity=3)) == ["p2", "p3", "p4"]


def test_a_flood_is_sampled(path: Path) -> None:
    flood = [completion(f"p{number}") for number in range(3 * MAX_PER_FLUSH)]
    assert prompts(kept(path, *flood, capacity=1000)) == [f"p{n}" for n in range(2 * MAX_PER_FLUSH, 3 * MAX_PER_FLUSH)]


def test_a_respawned_worker_goes_on_where_its_predecessor_was_killed(path: Path) -> None:
    kept(path, completion("before"), completion("and before"), capacity=2)
    assert prompts(kept(path, completion("after"), capacity=2)) == ["and before", "after"]


def test_closing_writes_the_last_ones(path: Path) -> None:
    recorder = Recorder(path, 2)
    recorder.start()
    recorder.note(completion("last"))
    recorder.close()
    assert prompts(recordings.read(path)) == ["last"]


def test_by_default_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    recorder = Recorder.of_worker(ServiceConfig(), 1)
    recorder.note(completion("secret"))
    recorder.flush()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_workers_share_the_number_and_write_a_file_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    for worker in (1, 2):
        recorder = Recorder.of_worker(ServiceConfig(workers=2, recorded_requests=5), worker)
        for number in range(9):
            recorder.note(completion(f"{worker}.{number}"))
        recorder.close()
    assert prompts(recordings.read_all(tmp_path)) == ["1.7", "1.8", "2.7", "2.8"]


def test_without_a_home_of_its_own_a_copy_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    recorder = Recorder.of_worker(ServiceConfig(recorded_requests=5), 1)
    recorder.note(completion("secret"))
    recorder.flush()
    assert list(tmp_path.iterdir()) == []
    assert "BENTOML_HOME" in caplog.text


def test_where_nobody_could_read_it_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv(recordings.UNREAD, "1")
    recorder = Recorder.of_worker(ServiceConfig(recorded_requests=5), 1)
    recorder.note(completion("secret"))
    recorder.close()
    assert list(tmp_path.iterdir()) == []
    assert "nobody could read recordings here" in caplog.text


def test_a_home_that_is_gone_is_not_made_again_and_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert kept(recordings.path_of(tmp_path / "gone", 1), completion("a")) == ()
    assert "requests are not recorded" in caplog.text
    assert list(tmp_path.iterdir()) == []
