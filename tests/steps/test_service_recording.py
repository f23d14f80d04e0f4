"""A real service that its spec told to keep users' last requests: which ones, what of them, and for whose eyes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import httpx

from pipelines import artifacts
from pipelines.formats import headers, recordings
from pipelines.formats.requests import RecordedRequest
from pipelines.store import Store
from tests.steps import serving

KEPT = 3
ANYBODY = {"Authorization": "Bearer jane", "X-Session": "jane", "X-Forwarded-For": "192.0.2.7"}


def test_the_last_accepted_requests_of_users_are_kept_redacted_and_private(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    store = Store(f"file://{tmp_path}/store")
    inputs = serving.make_inputs(store, tiny_model_folder, tmp_path)
    result = serving.run_package(store, inputs, tmp_path / "package", serving.spec(recorded_requests=KEPT))
    home = tmp_path / "home"

    with serving.serve(artifacts.fetch(store, result.bento, tmp_path / "cache"), home) as (url, _, _):

        def ask(prompt: str, status: int = 200, **more: Any) -> None:
            body = {"prompt": prompt, "max_tokens": 2, "temperature": 0, "user": "jane", **more.pop("body", {})}
            answer = httpx.post(f"{url}/v1/completions", json=body, headers={**ANYBODY, **more}, timeout=60)
            assert answer.status_code == status, answer.text

        def wait_for(*prompts: str) -> tuple[RecordedRequest, ...]:
            serving.wait_until(lambda: _texts(home) == list(prompts), f"{prompts} are kept")
            return recordings.read_all(home)

        ask("Write to jane@example.org")
        ask("pinned", **{headers.TRAFFIC: "pinned"})
        ask("mirrored", Host=f"docs{headers.SHADOW_SUFFIX}")
        ask("refused", 422, body={"max_tokens": 1000})
        ask("streamed", body={"stream": True})
        first, second = wait_for("Write to <email>", "streamed")
        assert first.body() == {
            "prompt": "Write to <email>",
            "max_tokens": 2,
            "temperature": 0,
            "top_p": 1,
            "stream": False,
            "echo": False,
        }
        assert second.stream

        chat = {"messages": [{"role": "user", "content": "Hi from 192.0.2.7", "name": "jane"}], "max_tokens": 2}
        assert httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=60).status_code == 200
        ask("last but one")
        wait_for("streamed", "Hi from <ip>", "last but one")
        httpx.post(f"{url}{first.path}", json=first.body(), timeout=60).raise_for_status()
        ask("last")

    assert _texts(home) == ["last but one", "Write to <email>", "last"], "a copy that is stopped writes what it has"
    (path,) = (home / recordings.FOLDER).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"jane" not in path.read_bytes()
    assert not [other for other in home.rglob("*") if other.is_file() and b"last but one" in other.read_bytes()][1:]


def _texts(home: Path) -> list[str]:
    """Return the texts of what is kept, in order."""
    return [
        str(request.prompt) if request.messages is None else request.messages[0].content
        for request in recordings.read_all(home)
    ]
