"""Which processes belong to a stack, whoever started them and whoever is still alive, and how they end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.stack.layout import write_private

MARKER = "SLIPWAY_STACK"
"""Environment variable that supervisord hands to everything it starts; its value is the home."""


class Identity(BaseModel):
    """A process that cannot be mistaken for another: a pid may be reused, a pid with its start time may not."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float
    ports: tuple[int, ...] = ()
    """Ports that this process' programs listen on."""

    @classmethod
    def of(cls, pid: int, ports: Iterable[int] = ()) -> Identity:
        """Return the identity of a living process."""
        return cls(pid=pid, started=psutil.Process(pid).create_time(), ports=tuple(ports))

    @classmethod
    def load(cls, path: Path) -> Identity | None:
        """Return the identity that a file records, or None when there is none that can be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, path: Path) -> None:
        """Record the identity in a file."""
        write_private(path, self.model_dump_json())

    def is_alive(self) -> bool:
        """Say whether exactly this process still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def is_reused(self) -> bool:
        """Say whether the pid now names another process."""
        try:
            return psutil.Process(self.pid).create_time() != self.started
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Stack:
    """The processes of one stack: they carry its marker, or live in the session that its supervisord began.

    Both are needed: a program that renames itself overwrites its environment, one that starts a session leaves ours.
    """

    home: Path
    supervisor: Identity | None

    def processes(self) -> list[psutil.Process]:
        """Return all living processes of the stack and their descendants, never this process or its parents."""
        spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            if process.pid not in spared and self._is_member(process):
                found[process.pid] = process
        for process in list(found.values()):
            with contextlib.suppress(psutil.Error):
                found.update(
                    (child.pid, child) for child in process.children(recursive=True) if child.pid not in spared
                )
        return [process for process in found.values() if _is_living(process)]

    def _is_member(self, process: psutil.Process) -> bool:
        leader = self.supervisor
        try:
            if leader and os.getsid(process.pid) == leader.pid and not leader.is_reused():
                return True
            return process.environ().get(MARKER) == str(self.home)
        except (psutil.Error, OSError):
            return False

    def end(self, grace_seconds: float = 10.0) -> list[int]:
        """End every process of the stack: first politely, then by force. Return the pids that had to be ended."""
        ended = self.processes()
        for process in ended:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, stubborn = psutil.wait_procs(ended, timeout=grace_seconds)
        while stubborn:
            for process in stubborn:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(stubborn, timeout=grace_seconds)
            stubborn = self.processes()
        return sorted(process.pid for process in ended)


def _is_living(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
