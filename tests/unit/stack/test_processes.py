"""Orphans of a killed supervisord are found by its session and by their marker, strangers never."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.stack.processes import MARKER, Identity, Stack

SLEEP = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(300)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(300)",
]
PARENT = [
    sys.executable,
    "-c",
    f"import subprocess, time; child = subprocess.Popen({SLEEP!r}); print(child.pid, flush=True); time.sleep(300)",
]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that are ready when they are returned; end them after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: list[str], environment: dict[str, str] | None = None, **options: bool) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, **options
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """Wait until a process says its first line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_orphan_is_found_by_its_session_after_its_leader_was_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    leader = start(PARENT, start_new_session=True)
    orphan = int(first_line(leader))
    identity = Identity.of(leader.pid)
    leader.kill()
    leader.wait()

    ended = Stack(tmp_path, identity).end()

    assert ended == [orphan]
    assert Stack(tmp_path, identity).processes() == []


def test_process_is_found_by_its_marker_alone(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(SLEEP, {MARKER: str(tmp_path)})
    first_line(process)

    assert Stack(tmp_path, None).end() == [process.pid]
    assert not psutil.pid_exists(process.pid)


def test_process_that_ignores_the_polite_signal_is_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(STUBBORN, {MARKER: str(tmp_path)})
    first_line(process)

    Stack(tmp_path, None).end(grace_seconds=0.1)

    assert not psutil.pid_exists(process.pid)


def test_strangers_and_other_stacks_are_spared(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    for environment in ({}, {MARKER: str(tmp_path / "other")}):
        first_line(start(SLEEP, environment))

    assert Stack(tmp_path, None).processes() == []


def test_session_of_a_reused_pid_is_not_ours(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    stranger = start(SLEEP, start_new_session=True)
    first_line(stranger)
    recorded = Identity(pid=stranger.pid, started=psutil.Process(stranger.pid).create_time() - 100)

    assert recorded.is_reused()
    assert not recorded.is_alive()
    assert Stack(tmp_path, recorded).processes() == []


def test_identity_survives_its_file_and_garbage_is_none(tmp_path: Path) -> None:
    identity = Identity.of(os.getpid(), [8080])
    identity.save(tmp_path / "identity")

    assert Identity.load(tmp_path / "identity") == identity
    assert identity.is_alive()
    (tmp_path / "identity").write_text("{")
    assert Identity.load(tmp_path / "identity") is None
