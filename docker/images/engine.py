"""The docker engine: the one that answers, else Debian's own, started for this build and stopped after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 30

_DOCKER = "docker"
_NOTHING = subprocess.DEVNULL


class EngineError(Exception):
    """There is no docker engine, or it refused; the message says what to do."""


@dataclass(frozen=True)
class Engine:
    """A docker engine that answers."""

    host: str = ""
    """Address as in DOCKER_HOST; empty: the docker command's own."""

    _environment: dict[str, str] = field(default_factory=dict)

    def call(self, *arguments: str | Path) -> str:
        """Run a docker command and return what it printed.

        Raises:
            EngineError: with docker's last line.
        """
        done = subprocess.run(
            [_DOCKER, *arguments], env=self.environment(), stdin=_NOTHING, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
            raise EngineError(f"docker {arguments[0]}: {last}")
        return done.stdout.strip()

    def show(self, *arguments: str | Path) -> None:
        """Run a docker command whose output the user sees.

        Raises:
            EngineError: when it fails; docker has said why.
        """
        done = subprocess.run([_DOCKER, *arguments], env=self.environment(), stdin=_NOTHING, check=False)
        if done.returncode != 0:
            raise EngineError(f"docker {arguments[0]} failed, see above")

    def answers(self) -> bool:
        """Return whether the engine answers."""
        with contextlib.suppress(EngineError):
            return bool(self.call("version", "--format", "{{.Server.Version}}"))
        return False

    def has(self, image: str) -> bool:
        """Return whether the engine has an image."""
        with contextlib.suppress(EngineError):
            return bool(self.call("image", "inspect", "--format", "{{.Id}}", image))
        return False

    def environment(self) -> Mapping[str, str]:
        """Return the environment of docker commands; without buildx the engine's own builder has to do."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {}), **self._environment}

    def with_builder(self) -> Engine:
        """Return this engine with the builder that is there."""
        with contextlib.suppress(EngineError):
            self.call("buildx", "version")
            return self
        return Engine(self.host, {"DOCKER_BUILDKIT": "0"})


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """Yield the engine that answers; where none does, start one with its data below `folder` and stop it at the end.

    Raises:
        EngineError: when none answers and none can be started.
    """
    if shutil.which("docker") is None:
        raise EngineError("docker is not installed; on Debian: apt-get install docker.io")
    engine = Engine()
    if engine.answers():
        yield engine.with_builder()
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise EngineError("no docker engine answers; start one, or run this as root with Debian's package docker.io")
    with tempfile.TemporaryDirectory(prefix="slipway-docker-") as short, _started(folder, Path(short)) as started:
        yield started.with_builder()


@contextlib.contextmanager
def _started(folder: Path, sockets: Path) -> Iterator[Engine]:
    """Start dockerd; it ends with this process, and having no network of its own it leaves the machine's alone."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(f"unix://{sockets / 'docker.sock'}")
    command: Sequence[str | Path] = [
        *("setpriv", "--pdeathsig", "TERM", "dockerd", "--host", engine.host, "--pidfile", sockets / "pid"),
        *("--data-root", folder / "engine", "--exec-root", sockets / "exec"),
        *("--bridge", "none", "--iptables=false", "--ip-forward=false"),
    ]
    log = folder / "dockerd.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdin=_NOTHING, stdout=stream, stderr=stream, process_group=0)
    try:
        _wait(engine, process, log)
        yield engine
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise EngineError(f"dockerd did not start; see {log}")
        time.sleep(0.2)
