"""Faults of a single task: what is retried, what is not, and that nothing is left of a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.airflow_case import ROOT, Lifecycle

TASK = """
import sys
from pathlib import Path
from pipelines import runner
from pipelines.settings import Settings
from pipelines.step import RunInfo
from tests.airflow_case import fake_command
runner.WorkStep.command = fake_command(Path(sys.argv[1]))
info = RunInfo(model="tiny", run_id="manual__1", task_id="train")
runner.WorkStep("train", "artifacts/spec/" + "0" * 64, info, Settings()).run({}, print)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("behaviour", "tries"),
    [
        pytest.param({"status": 20, "prints": ["error: loss is nan"]}, 1, id="refused-fails-at-once"),
        pytest.param({"status": 1, "prints": ["ValueError: x"]}, 2, id="unexpected-is-retried-once"),
        pytest.param({"status": 10, "prints": ["error: store away"]}, 4, id="retryable-is-retried"),
        pytest.param({"status": 137}, 4, id="interrupted-is-retried"),
        pytest.param({"leaves": False}, 4, id="status-0-without-receipt-is-a-failure"),
    ],
)
def test_what_a_task_does_about_a_failed_step(
    lifecycle: Lifecycle, behaviour: dict[str, object], tries: int, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle.tell("train", **behaviour)
    run = lifecycle.run()
    assert (run.state, run.tasks["train"], run.tries["train"]) == ("failed", "failed", tries)
    assert run.tasks["evaluate"] == "upstream_failed"
    assert run.tasks["record"] == "upstream_failed"


def start_task(lifecycle: Lifecycle, tmp_path: Path, *, guarded: bool) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start a task whose step waits with a rank below it; return the task's process and the pids of step and rank."""
    started = tmp_path / "pids"
    lifecycle.tell("train", waits=str(started), guarded=guarded)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    task = subprocess.Popen([sys.executable, "-c", TASK, str(lifecycle.told)], env=environment, cwd=ROOT)
    wait_until(started.exists)
    step, rank = (int(pid) for pid in started.read_text().split())
    return task, step, rank


def test_a_task_killed_with_9_leaves_no_step_and_no_rank(lifecycle: Lifecycle, tmp_path: Path) -> None:
    task, step, rank = start_task(lifecycle, tmp_path, guarded=True)
    task.kill()
    task.wait()
    wait_until(lambda: is_gone(step) and is_gone(rank))


def test_without_the_protection_both_would_be_orphans(lifecycle: Lifecycle, tmp_path: Path) -> None:
    task, step, rank = start_task(lifecycle, tmp_path, guarded=False)
    task.kill()
    task.wait()
    try:
        assert not is_gone(step)
        assert not is_gone(rank)
    finally:
        os.killpg(step, signal.SIGKILL)


def test_a_step_killed_with_9_takes_its_ranks_along(lifecycle: Lifecycle, tmp_path: Path) -> None:
    task, step, rank = start_task(lifecycle, tmp_path, guarded=False)
    os.kill(step, signal.SIGKILL)
    assert task.wait(60) != 0
    wait_until(lambda: is_gone(rank))


def test_a_running_step_sees_no_secret(lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIPWAY_LEDGER", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__API_AUTH__JWT_SECRET"):
        monkeypatch.setenv(name, "hunter2")
    task, step, _ = start_task(lifecycle, tmp_path, guarded=True)
    try:
        seen = psutil.Process(step).environ()
    finally:
        task.kill()
        task.wait()
    assert not [name for name, value in seen.items() if name.startswith("AIRFLOW") or "hunter2" in value]
    assert {"SLIPWAY_STORE", "SLIPWAY_HOME", "PATH", "PYTHONPATH"} <= set(seen)
