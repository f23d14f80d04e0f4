"""End a rank that hangs, after asking it where it is: torchrun then starts the ranks again, or gives up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipelines.training.job import TrainingJob
from pipelines.training.supervision.failure import indent
from pipelines.training.supervision.heartbeat import Heartbeat
from pipelines.training.supervision.watchdog import Watchdog

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
        self._watchdog = Watchdog(job.training.watchdog)
        self.stories: dict[int, str] = {}
        """What was found out about each rank that was ended here, by process id."""

    def look(self, beats: Mapping[int, Heartbeat]) -> Heartbeat | None:
        """End the rank that hangs, if one does, and return its last heartbeat."""
        hang = self._watchdog.look(beats, time.monotonic())
        if hang is None:
            return None
        state = self._state(hang.beat)
        self.stories[hang.beat.rank] = f"{hang}; {state}"
        with contextlib.suppress(psutil.Error):
            psutil.Process(hang.beat.pid).kill()
        return hang.beat

    def _state(self, beat: Heartbeat) -> str:
        """Return what a hanging process does, in words."""
        try:
            found = psutil.Process(beat.pid)
            if found.status() == psutil.STATUS_STOPPED:
                return "its process is stopped, by a signal or a debugger"
            file = stack_file(self._job, beat.rank)
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
