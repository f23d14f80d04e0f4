"""Real processes for release tests: Envoy, supervisord, a client that keeps asking."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from pipelines.release.local import envoy
from pipelines.settings import Settings

DEADLINE_SECONDS = 60.0
"""For things that take seconds; a busy machine may need many times that."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


class LiveEnvoy:
    """Envoy as the stack starts it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        envoy.bootstrap_path(settings)
        self.admin = envoy.Admin(envoy.EnvoyFiles.of(settings).admin_socket)
        self.start()

    def start(self) -> None:
        log = self.settings.resolved_home() / "logs" / "envoy.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            self.process = subprocess.Popen(envoy.command(self.settings), stdout=stream, stderr=stream)
        wait_for(self.is_up, "Envoy is up")

    def is_up(self) -> bool:
        assert self.process.poll() is None, "Envoy ended"
        try:
            return bool(self.admin.config("dynamic_listeners") or self.admin.stats("listener_manager.lds"))
        except envoy.RouterUnavailable:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Load:
    """Clients that keep sending requests; every answer is counted by status and version."""

    url: str
    clients: int = 4
    body: dict[str, object] = field(default_factory=lambda: {"prompt": "x" * 1000})
    headers: dict[str, str] = field(default_factory=dict)
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.answers, "the first answer under load")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def _run(self) -> None:
        with httpx.Client(timeout=DEADLINE_SECONDS, trust_env=False, headers=self.headers) as client:
            while not self._stopping.is_set():
                try:
                    answer = client.post(self.url, json=self.body)
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                with self._lock:
                    self.answers[answer.status_code, answer.headers.get("X-Slipway-Version", "none")] += 1
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text[:100]}")

    def by(self, version: str) -> int:
        """Return how many answers a version gave."""
        return sum(count for (_, answered_by), count in self.answers.items() if answered_by == version)


class LiveSupervisord:
    """supervisord with the part of the stack's configuration that the fleet relies on."""

    def __init__(self, settings: Settings) -> None:
        home = settings.resolved_home()
        programs = home / "supervisor" / "programs"
        for folder in (programs, home / "logs", settings.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.configuration = home / "supervisor" / "supervisord.conf"
        self.configuration.write_text(
            f"[unix_http_server]\nfile={settings.run_dir / 'supervisor.sock'}\n"
            f"[supervisord]\nnodaemon=true\nuser=root\nlogfile={home / 'logs' / 'supervisord.log'}\n"
            f"pidfile={settings.run_dir / 'supervisord.pid'}\nchildlogdir={home / 'logs'}\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[include]\nfiles={programs}/*.conf\n"
        )
        self.socket: Path = settings.run_dir / "supervisor.sock"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.is_up, "supervisord is up")

    def is_up(self) -> bool:
        """Say whether it answers; one that was killed leaves its socket behind."""
        assert self.process.poll() is None, "supervisord ended"
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)
