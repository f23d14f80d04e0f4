"""Startup, readiness and liveness of a running container, by really asking it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.cluster.containers import Container
from tests.cluster.selectors import Object

_KINDS = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass
class Probe:
    """One probe and its results in a row."""

    kind: str
    spec: Object
    due: float
    successes: int = 0
    failures: int = 0
    failing_since: float = 0.0
    message: str = field(default="", repr=False)

    def note(self, problem: str) -> None:
        """Count one result; an empty problem is a success."""
        self.message = problem
        if problem and not self.failures:
            self.failing_since = time.monotonic()
        self.successes, self.failures = (0, self.failures + 1) if problem else (self.successes + 1, 0)

    @property
    def has_passed(self) -> bool:
        return self.successes >= int(self.spec.get("successThreshold", 1))

    @property
    def has_failed(self) -> bool:
        return self.failures >= self._threshold

    @property
    def is_hopeless(self) -> bool:
        """Whether it has failed for as long as on a real cluster: a process that starts here gets its time."""
        seconds = (self._threshold - 1) * self.spec.get("periodSeconds", 10)
        return self.has_failed and time.monotonic() - self.failing_since >= seconds

    @property
    def _threshold(self) -> int:
        return int(self.spec.get("failureThreshold", 3))


class Prober:
    """Probes one container until its process ends."""

    def __init__(
        self,
        container: Container,
        host: str,
        speed: float,
        on_change: Callable[[], None],
        on_failure: Callable[[Container, str, str], None],
    ) -> None:
        """Remember what to probe.

        Args:
            host: address of the pod.
            speed: how much faster than its `periodSeconds` says a probe comes round.
            on_change: called when the container becomes ready or not.
            on_failure: called with the container, the kind of probe and the problem, when it must be restarted.
        """
        self._container = container
        self._host = host
        self._speed = speed
        self._on_change = on_change
        self._on_failure = on_failure
        begin = time.monotonic()
        self._probes = {
            kind: Probe(kind, spec, begin + spec.get("initialDelaySeconds", 0) / speed)
            for kind in _KINDS
            if (spec := container.spec.get(kind))
        }

    def start(self) -> None:
        """Begin, in a thread; a container without probes is ready at once."""
        self._container.is_started = "startupProbe" not in self._probes
        self._container.is_ready = self._container.is_started and "readinessProbe" not in self._probes
        if self._probes:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self._container.is_running:
            for probe in self._current():
                if time.monotonic() >= probe.due:
                    self._look(probe)
            time.sleep(0.02)

    def _current(self) -> list[Probe]:
        """Return the probes that count now: the startup probe alone, until it has succeeded."""
        if not self._container.is_started:
            return [self._probes["startupProbe"]]
        return [probe for kind, probe in self._probes.items() if kind != "startupProbe"]

    def _look(self, probe: Probe) -> None:
        probe.note(ask(probe.spec, self._host, self._container))
        probe.due = time.monotonic() + probe.spec.get("periodSeconds", 10) / self._speed
        if not self._container.is_running:
            return
        match probe.kind:
            case "startupProbe" if probe.has_passed:
                self._container.is_started = True
                self._set_ready("readinessProbe" not in self._probes)
            case "readinessProbe" if probe.has_passed or probe.has_failed:
                self._set_ready(probe.has_passed)
            case "startupProbe" | "livenessProbe" if probe.is_hopeless:
                probe.failures = 0
                self._on_failure(self._container, probe.kind, probe.message)

    def _set_ready(self, is_ready: bool) -> None:
        if self._container.is_ready is not is_ready:
            self._container.is_ready = is_ready
            self._on_change()


def ask(action: Object, host: str, container: Container) -> str:
    """Carry out a probe's or a hook's action once; return what is wrong, or an empty text."""
    seconds = action.get("timeoutSeconds", 1)
    if "exec" in action:
        return _execute(action["exec"]["command"], container)
    if "tcpSocket" in action:
        return _connect(host, _port(action["tcpSocket"]["port"], container.spec), seconds)
    wanted = action["httpGet"]
    url = f"http://{wanted.get('host', host)}:{_port(wanted['port'], container.spec)}{wanted.get('path', '/')}"
    headers = {row["name"]: row["value"] for row in wanted.get("httpHeaders", ())}
    try:
        code = httpx.get(url, headers=headers, timeout=seconds, trust_env=False).status_code
    except httpx.HTTPError as error:
        return f'Get "{url}": {error}'
    return "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"


def _execute(words: list[str], container: Container) -> str:
    """Run a command beside a container's own; it ends when that does."""
    assert container.command is not None
    process = subprocess.Popen(
        container.command.other(words),
        env=container.command.environment,
        cwd=container.command.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while container.is_running and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    return "" if process.wait() == 0 else f"command ended with {process.returncode}"


def _connect(host: str, port: int, seconds: float) -> str:
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        return f"dial tcp {host}:{port}: {error}"
    return ""


def _port(wanted: int | str, container: Object) -> int:
    named = {row.get("name"): row["containerPort"] for row in container.get("ports", ())}
    return int(named.get(wanted, wanted))
