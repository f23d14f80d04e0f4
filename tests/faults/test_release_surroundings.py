"""Releases while what is around them fails: the disk, the clock, the old version; and streams that outlast weights."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines import ledger
from pipelines.ledger import Phase, RolloutState
from tests.faults.release_case import ControllerProcess, ended, let_go, settings_for, supervised_controller
from tests.steps.envoy_case import Stream
from tests.steps.live import Load, wait_for
from tests.steps.release_stage import MODEL, Stage, installed

RULES: dict[str, Any] = {"weights": [25], "bake_seconds": 3}
STREAM_CHUNKS = 150
"""A tenth of a second each: longer than the rollout."""


def state_of(stage: Stage, rollout: int) -> RolloutState:
    return ledger.read_rollout(stage.url, rollout).state


def is_at_weight(stage: Stage, rollout: int) -> bool:
    """Say whether users are on the candidate."""
    state = state_of(stage, rollout)
    return state.phase is Phase.STEP and state.confirmed_bp == 2500


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a file system of 16 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    place = tmp_path / "home"
    place.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
    yield place
    wait_for(lambda: subprocess.run(["/bin/umount", str(place)], check=False).returncode == 0, "nobody uses the disk")


def test_a_full_disk_holds_the_release_and_it_goes_on_with_space(
    small_home: Path, ledger_url: str, tmp_path: Path
) -> None:
    with (
        installed(settings_for(tmp_path, ledger_url), tmp_path / "scratch") as stage,
        supervised_controller(stage),
    ):
        first = stage.release(stage.inputs("one", "run-1"))
        with Load(f"{first.endpoint}/v1/completions") as load:
            rollout = let_go(stage, stage.inputs("two", "run-2", **RULES | {"bake_seconds": 8}))
            wait_for(lambda: is_at_weight(stage, rollout), "the candidate has users")
            with contextlib.suppress(OSError), (small_home / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
            wait_for(lambda: "is the disk full?" in state_of(stage, rollout).hold_reason, "the hold")
            held_at = state_of(stage, rollout).canary_bp
            (small_home / "filler").unlink()
            found = ended(stage, rollout)

        assert held_at == 2500
        assert found.state.phase is Phase.PROMOTED, found.state
        assert load.failures == []


@pytest.mark.parametrize("hours", [1, pytest.param(-1, marks=pytest.mark.slow)])
def test_a_controller_whose_clock_is_wrong_by_an_hour_decides_the_same(stage: Stage, hours: int) -> None:
    with supervised_controller(stage, skew_seconds=3600.0 * hours):
        first = stage.release(stage.inputs("one", "run-1"))
        with Load(f"{first.endpoint}/v1/completions") as load:
            found = ended(stage, let_go(stage, stage.inputs("two", "run-2", **RULES)))

    assert found.state.phase is Phase.PROMOTED, found.state
    assert load.failures == []
    looks = [event.at for event in ledger.events(stage.url, MODEL, rollout=found.id)]
    assert looks == sorted(looks)
    assert looks[-1] - looks[0] < 600, "by the ledger's clock"


def test_a_stable_version_that_dies_is_brought_back_and_its_failures_are_not_the_candidates(
    stage: Stage, controller: ControllerProcess
) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    process = stage.supervisor_of_copy()
    assert process is not None
    with Load(f"{first.endpoint}/v1/completions"):
        rollout = let_go(stage, stage.inputs("two", "run-2", **RULES))
        wait_for(lambda: is_at_weight(stage, rollout), "the candidate has users")
        for victim in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        found = ended(stage, rollout)

    assert found.state.phase is Phase.PROMOTED, found.state


def test_streams_that_are_open_over_every_weight_change_end_whole(stage: Stage, controller: ControllerProcess) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    seen: dict[tuple[Phase, int], Stream] = {}
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(httpx.Client(timeout=60, trust_env=False))

        def stream() -> Stream:
            body = {"prompt": "x", "chunks": STREAM_CHUNKS}
            request = client.stream("POST", f"{first.endpoint}/v1/completions", json=body)
            return Stream(opened.enter_context(request))

        with Load(f"{first.endpoint}/v1/completions") as load:
            rollout = let_go(stage, stage.inputs("two", "run-2", **RULES | {"weights": [25, 50]}))

            def is_over() -> bool:
                state = state_of(stage, rollout)
                if not state.is_final and (state.phase, state.canary_bp) not in seen:
                    seen[state.phase, state.canary_bp] = stream()
                return state.is_final

            wait_for(is_over, "the end of the rollout", seconds=240)
        for one in seen.values():
            one.wait()

    assert state_of(stage, rollout).phase is Phase.PROMOTED
    assert {(Phase.STEP, 2500), (Phase.STEP, 5000)} <= set(seen)
    assert {one.version for one in seen.values()} == {"one", "two"}
    assert [one.error for one in seen.values() if one.error] == []
    assert {one.text for one in seen.values()} == {"token" * STREAM_CHUNKS}
    assert load.failures == []
