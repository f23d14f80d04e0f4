"""One container: its process behind the shim, its state as the API shows it, and its log."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.cluster import processes
from tests.cluster.environment import Command
from tests.cluster.logs import Log
from tests.cluster.selectors import Object
from tests.cluster.store import now

_KILLED = 128 + signal.SIGKILL
_MESSAGE_BYTES = 2048
TERMINATION_LOG = "/dev/termination-log"


class Container:
    """A container of a pod, in its first run or a later one."""

    def __init__(self, spec: Object, termination_log: Path, on_change: Callable[[], None]) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.state: Object = {"waiting": {"reason": "PodInitializing"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.log = Log()
        self.previous_log: Log | None = None
        self.due = 0.0
        """Earliest moment of the next attempt to start it, by the monotonic clock."""
        self.is_ready = False
        self.is_started = False
        """Whether its startup probe has succeeded, or it has none."""
        self.termination_log = termination_log
        self._on_change = on_change
        self.command: Command | None = None
        """What it runs; None before its first start."""
        self._id = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._cause = ""

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """How its latest run ended; None before that."""
        found = self.state.get("terminated")
        return found["exitCode"] if found else None

    def wait_because(self, reason: str, message: str = "") -> None:
        """Say why it does not run."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def start(self, command: Command) -> None:
        """Start its process."""
        if self._process is not None:
            if "terminated" in self.state:
                self.last_state = self.state
            self.restarts += 1
            self.previous_log, self.log = self.log, Log()
        self._cause, self.command = "", command
        self._id = f"local://{uuid.uuid4().hex}"
        self._process = processes.start(command.arguments, environment=command.environment, directory=command.directory)
        self.state = {"running": {"startedAt": now()}}
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def ask(self) -> None:
        """Send SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self, cause: str = "") -> None:
        """End all its processes at once; the first cause becomes the reason in its state, such as OOMKilled."""
        self._cause = self._cause or cause
        self._signal(signal.SIGUSR1)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of its process; return whether it came."""
        deadline = time.monotonic() + seconds
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.is_running

    def status(self) -> Object:
        """Return its entry in `containerStatuses`."""
        image = self.spec.get("image", "")
        return {
            "name": self.name,
            "image": image,
            "imageID": f"local://{image}" if self._id else "",
            "containerID": self._id,
            "ready": self.is_ready,
            "started": self.is_started and self.is_running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        started = self.state["running"]["startedAt"]
        self.log.collect(process.stdout)
        code = process.wait()
        if code < 0:  # the shim itself was killed
            code = 128 - code
        self.is_ready = False
        reason = self._cause or ("Error" if code else "Completed")
        ended = {"exitCode": _KILLED if self._cause == "OOMKilled" else code, "reason": reason}
        ended |= {"startedAt": started, "finishedAt": now(), "containerID": self._id}
        if message := self._message(code):
            ended["message"] = message
        self.state = {"terminated": ended}
        self._on_change()

    def _message(self, code: int) -> str:
        """Return what the container wrote to its termination log, or the end of its log where that is asked for."""
        with contextlib.suppress(FileNotFoundError):
            return self.termination_log.read_text(errors="replace")[-_MESSAGE_BYTES:]
        falls_back = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        return self.log.text()[-_MESSAGE_BYTES:] if code and falls_back else ""
