"""A process that hangs is asked where it is, and ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.spec import ArchitectureConfig, TrainingConfig, WatchdogConfig
from pipelines.training.job import TrainingJob
from pipelines.training.supervision.hangs import HangBreaker, stack_file
from pipelines.training.supervision.heartbeat import Heartbeat, Phase
from tests.training_case import wait_for

HANGING = """
import faulthandler, signal, sys, threading
with open(sys.argv[1], "w") as stream:
    faulthandler.register(signal.SIGUSR1, stream)
    def wait_for_a_peer_that_never_comes():
        lock = threading.Lock()
        lock.acquire()
        print("ready", flush=True)
        lock.acquire()
    wait_for_a_peer_that_never_comes()
"""


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """Return a job whose watchdog barks at once."""
    watchdog = WatchdogConfig(factor=1.1, min_seconds=0.001, start_seconds=0.001)
    job = TrainingJob(
        architecture=ArchitectureConfig(),
        training=TrainingConfig(watchdog=watchdog),
        tokens=tmp_path,
        tokenizer=tmp_path,
        workspace=tmp_path / "work",
        store_url=f"file://{tmp_path}/store",
        checkpoints="checkpoints/key",
    )
    job.save()
    return job


@pytest.fixture
def hanging(job: TrainingJob) -> Iterator[subprocess.Popen[str]]:
    """Start a process that waits for itself."""
    command = [sys.executable, "-c", HANGING, str(stack_file(job, 0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def break_up(job: TrainingJob, pid: int) -> str:
    beat = Heartbeat(rank=0, pid=pid, attempt=0, step=41, phase=Phase.TRAINING)
    breaker = HangBreaker(job)
    assert breaker.look({0: beat}) == []
    wait_for(lambda: breaker.look({0: beat}), "the hang is seen")
    return breaker.stories[0]


def test_its_stack_is_told_and_it_is_ended(job: TrainingJob, hanging: subprocess.Popen[str]) -> None:
    story = break_up(job, hanging.pid)
    assert re.match(r"rank 0 hangs: nothing moved for \d+ s while training after step 41", story)
    assert "in wait_for_a_peer_that_never_comes" in story
    assert hanging.wait(timeout=60) == -signal.SIGKILL


def test_a_stopped_process_is_called_that(job: TrainingJob, hanging: subprocess.Popen[str]) -> None:
    os.kill(hanging.pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(hanging.pid).status() == psutil.STATUS_STOPPED, "the process is stopped")
    assert "its process is stopped, by a signal or a debugger" in break_up(job, hanging.pid)
    assert hanging.wait(timeout=60) == -signal.SIGKILL


def test_a_process_that_has_ended_hangs_no_more(job: TrainingJob, hanging: subprocess.Popen[str]) -> None:
    breaker, beat = HangBreaker(job), Heartbeat(rank=0, pid=hanging.pid, attempt=0, step=41, phase=Phase.ENDING)
    assert breaker.look({0: beat}) == []
    hanging.kill()  # nobody has waited for it: its id is still taken
    wait_for(lambda: psutil.Process(hanging.pid).status() == psutil.STATUS_ZOMBIE, "the process has ended")
    assert [breaker.look({0: beat}) for _ in range(3)] == [[], [], []]
    assert breaker.stories == {}
