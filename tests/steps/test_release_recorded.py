"""A release without users: what they asked the old version before finds a fault that no reference request meets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import RolledBack
from pipelines.formats import bento, recordings
from pipelines.formats.requests import RecordedRequest
from pipelines.settings import Settings
from tests.ports import own_ranges
from tests.steps.live import wait_for
from tests.steps.release_stage import Stage, controlled, installed, serve_command

LONG = [RecordedRequest(path="/v1/completions", prompt=f"{number} " + "x" * 1000) for number in range(40)]
FAILS_FOR_LONG_PROMPTS = {"longest_prompt": 500}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[Stage]:
    """Return an installation whose controller is at work."""
    monkeypatch.setattr(bento, "serve_command", serve_command)
    settings = Settings(home=tmp_path / "home", ledger=ledger_url, **own_ranges())
    with installed(settings, tmp_path / "scratch") as made, controlled(made):
        yield made


@pytest.fixture
def old_home(stage: Stage) -> Path:
    """Release a first version and return its copy's home."""
    stage.release(stage.inputs("one", "run-1"))
    (copy,) = stage.copies()
    return stage.settings.resolved_home() / "copies" / copy


def test_what_users_asked_before_finds_what_references_do_not(stage: Stage, old_home: Path) -> None:
    recordings.write(recordings.path_of(old_home, 1), LONG)
    with pytest.raises(RolledBack, match="worse"):
        stage.release(stage.inputs("two", "run-2", habits=FAILS_FOR_LONG_PROMPTS, shadow_seconds=1))
    assert recordings.read_all(old_home) == tuple(LONG)


def test_with_nothing_recorded_the_same_version_is_promoted_and_a_stopped_copy_leaves_nothing(
    stage: Stage, old_home: Path
) -> None:
    recordings.write(recordings.path_of(old_home, 1), [])
    stage.release(stage.inputs("two", "run-2", habits=FAILS_FOR_LONG_PROMPTS, shadow_seconds=1))
    wait_for(lambda: not old_home.exists(), "nothing is left of the old copy")
