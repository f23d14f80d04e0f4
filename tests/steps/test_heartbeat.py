"""Signs of life: what the loop says is what a file shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.training.supervision import heartbeat
from pipelines.training.supervision.heartbeat import LiveState, Phase, beating, read_heartbeats
from tests.training_case import wait_for


@pytest.fixture(autouse=True)
def _rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be rank 1 in torchrun's third attempt, with a quick heart."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)


def test_a_heartbeat_follows_the_loop(tmp_path: Path) -> None:
    state = LiveState()

    def shown(step: int, phase: Phase) -> bool:
        beat = read_heartbeats(tmp_path).get(1)
        return beat is not None and (beat.rank, beat.attempt, beat.step, beat.phase) == (1, 2, step, phase)

    with beating(state, tmp_path):
        wait_for(lambda: shown(0, Phase.STARTING), "the first beat")
        state.stepped(7)
        wait_for(lambda: shown(7, Phase.TRAINING), "a step is shown")
        with state.during(Phase.SAVING):
            wait_for(lambda: shown(7, Phase.SAVING), "saving is shown")
        wait_for(lambda: shown(7, Phase.TRAINING), "training goes on")
    assert [file.name for file in tmp_path.iterdir()] == ["rank-1.json"]


def test_a_full_disk_does_not_stop_the_heart(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with beating(LiveState(), folder):
        assert read_heartbeats(folder) == {}
        folder.mkdir()
        wait_for(lambda: read_heartbeats(folder), "a beat once there is room")


def test_what_is_no_heartbeat_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text("{")
    assert read_heartbeats(tmp_path) == {}
