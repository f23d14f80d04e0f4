"""End a rank that hangs, after asking it where it is: torchrun then starts the ranks again, or gives up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipelines.spec import DilocoConfig
from pipelines.training.job import TrainingJob
from pipelines.training.supervision.failure import indent
from pipelines.training.supervision.heartbeat import Heartbeat
from pipelines.training.supervision.watchdog import Watchdogs

STACK_SIGNAL = signal.SIGUSR1
"""At this signal a rank writes its stack to its file, also while it waits inside a library."""

_STACK_SECONDS = 2.0
_STACK_LINES = 12


def stack_file(job: TrainingJob, rank: int) -> Path:
    """Return where a rank writes its stack."""
    return job.stacks_folder / f"rank-{rank}.txt"


class HangBreaker:
    """Watches the ranks of this machine."""

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        goes_on_without = isinstance(job.training.strategy, DilocoConfig)
        self._watchdogs = Watchdogs(job.training.watchdog, wait_for_each_other=not goes_on_without)
        self._processes: dict[tuple[int, int], psutil.Process] = {}
        self.stories: dict[int, str] = {}
        """What was found out about each rank that was ended here, by rank."""

    def look(self, beats: Mapping[int, Heartbeat]) -> list[Heartbeat]:
        """End the ranks that hang, and return their last heartbeats."""
        living = {rank: beat for rank, beat in beats.items() if self._is_living(beat)}
        is_over = 0 in beats and 0 not in living and self._job.model_folder.exists()
        hangs = self._watchdogs.look(living, time.monotonic(), is_over=is_over)
        for hang in hangs:
            found = self._process(hang.beat)
            self.stories[hang.beat.rank] = f"{hang}; {self._state(hang.beat.rank, found)}"
            with contextlib.suppress(psutil.Error):
                found.kill()
        return [hang.beat for hang in hangs]

    def _process(self, beat: Heartbeat) -> psutil.Process:
        """Return the process that wrote a heartbeat; it is known by more than its id, which others may get."""
        key = beat.attempt, beat.pid
        if key not in self._processes:
            self._processes[key] = psutil.Process(beat.pid)
        return self._processes[key]

    def _is_living(self, beat: Heartbeat) -> bool:
        """Whether a rank has not ended; the heartbeats of those that have stay where they are."""
        try:
            found = self._process(beat)
            return found.is_running() and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def _state(self, rank: int, found: psutil.Process) -> str:
        """Return what a hanging process does, in words."""
        try:
            if found.status() == psutil.STATUS_STOPPED:
                return "its process is stopped, by a signal or a debugger"
            file = stack_file(self._job, rank)
            file.write_text("", encoding="utf-8")
            found.send_signal(STACK_SIGNAL)
        except psutil.Error:
            return "its process is gone"
        stack = _wait_for_text(file)
        return f"its stack:\n{indent(stack[:_STACK_LINES])}" if stack else "it does not tell its stack"


def _wait_for_text(file: Path) -> list[str]:
    deadline, pause = time.monotonic() + _STACK_SECONDS, threading.Event()
    size = 0
    while time.monotonic() < deadline:
        before, size = size, file.stat().st_size
        if size and size == before:
            break
        pause.wait(0.05)
    return file.read_text(encoding="utf-8", errors="replace").splitlines()
