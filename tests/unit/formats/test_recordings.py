"""Recorded requests as files: private, whole or passed over line by line."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.formats import recordings
from pipelines.formats.requests import RecordedMessage, RecordedRequest

COMPLETION = RecordedRequest(path="/v1/completions", prompt="Return\u2028 the\n", max_tokens=0, echo=True, logprobs=0)
CHAT = RecordedRequest(
    path="/v1/chat/completions", messages=(RecordedMessage(role="user", content="Hi"),), stream=True, temperature=0.5
)


def test_requests_survive_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = recordings.path_of(tmp_path, 1)
    for kept in ([CHAT], [COMPLETION, CHAT]):
        recordings.write(path, kept)
    assert recordings.read(path) == (COMPLETION, CHAT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_the_files_of_all_workers_are_read(tmp_path: Path) -> None:
    recordings.write(recordings.path_of(tmp_path, 2), [CHAT])
    recordings.write(recordings.path_of(tmp_path, 1), [COMPLETION])
    assert recordings.read_all(tmp_path) == (COMPLETION, CHAT)


def test_a_copy_that_records_nothing_has_no_requests(tmp_path: Path) -> None:
    assert recordings.read_all(tmp_path) == ()
    assert recordings.read(recordings.path_of(tmp_path, 1)) == ()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-9], id="half-a-line"),
        pytest.param(lambda data: data.splitlines()[0] + b"\n\xff\x00", id="noise"),
        pytest.param(lambda data: data.replace(b'"stream":true', b'"user":"jane"'), id="unknown-field"),
        pytest.param(lambda data: data.replace(b"/v1/chat/completions", b"/metrics"), id="another-path"),
    ],
)
def test_a_damaged_line_costs_no_other(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(damage)
    path = recordings.path_of(tmp_path, 1)
    recordings.write(path, [COMPLETION, CHAT])
    path.write_bytes(damage(path.read_bytes()))
    assert COMPLETION in recordings.read(path)
    assert CHAT not in recordings.read(path)
    assert "damaged lines passed over" in caplog.text


def test_the_body_says_what_was_given_and_nothing_else() -> None:
    assert COMPLETION.body() == {"prompt": "Return\u2028 the\n", "max_tokens": 0, "echo": True, "logprobs": 0}
    assert CHAT.body() == {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "temperature": 0.5}


def test_there_is_no_place_for_a_user() -> None:
    with pytest.raises(ValidationError, match="user"):
        RecordedRequest.model_validate({"path": "/v1/completions", "prompt": "a", "user": "jane"})
