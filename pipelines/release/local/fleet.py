"""The fleet on one machine: every copy is a program of the stack's supervisord, described by a file of its own.

The file is the record of the copy: written before the copy starts and removed after it is gone, it brings the copy back
after a restart of the supervisor and tells a new controller where it listens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from pipelines import artifacts
from pipelines.formats import bento, metrics, recordings
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.formats.requests import RecordedRequest
from pipelines.ledger import Version
from pipelines.release.local.clusters import READY_PATH
from pipelines.release.local.listeners import LOOPBACK
from pipelines.release.local.router import is_free
from pipelines.release.local.supervisord import Supervisord
from pipelines.release.ports import Address, FleetError
from pipelines.settings import Settings, parse_port_range
from pipelines.store import Store

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30
"""How long a copy may take to end after its traffic was drained; then its process group is killed."""

PORT_FREE_SECONDS = 5.0
YOUNG_SECONDS = 60
"""A copy that began so lately may have left processes of its previous life behind."""

READY_TIMEOUT_SECONDS = 2.0
METRICS_PATH = "/metrics"
_HEADER = "; copy "


@dataclass(frozen=True)
class Record:
    """What a copy's file says about it."""

    copy: str
    service: str
    port: int


class SupervisorFleet:
    """See `pipelines.release.ports.Fleet`."""

    def __init__(self, settings: Settings) -> None:
        home = settings.resolved_home()
        self._programs = home / "supervisor" / "programs"
        self._logs = home / "logs"
        self._homes = home / "copies"
        self._cache = home / "cache"
        self._store = Store(settings.store_url())
        self._ports = parse_port_range(settings.copy_ports)
        self._supervisord = Supervisord(settings.run_dir / "supervisor.sock")
        self._client = httpx.Client(timeout=READY_TIMEOUT_SECONDS, trust_env=False)
        self._allocation = threading.Lock()

    def start(self, version: Version) -> Address:
        """Verify the bento, write the copy's file, hand it to supervisord; what is there already is left as it is."""
        record = self._record(version.copy_name) or self._describe(version)
        info = self._supervisord.info(record.copy)
        if info is None:
            self._supervisord.add(record.copy)
        elif info["statename"] in ("STOPPED", "EXITED", "FATAL"):
            self._supervisord.start(record.copy)
        elif info["now"] - info["start"] < YOUNG_SECONDS:
            self._end_leftovers(record.copy)
        return Address(LOOPBACK, record.port)

    def stop(self, copy: str) -> None:
        """Stop the copy's process group, forget the program, and see that the port is free."""
        info = self._supervisord.info(copy)
        if info is not None:
            self._supervisord.stop(copy)
            self._supervisord.remove(copy)
        self._end_leftovers(copy)
        record = self._record(copy)
        if record is not None:
            _wait_until_free(record)
            self._path(copy).unlink()
        shutil.rmtree(self._homes / copy, ignore_errors=True)

    def ready(self, copy: str) -> bool:
        """Ask the copy itself, by HTTP: a socket that accepts proves nothing."""
        record = self._record(copy)
        if record is None:
            return False
        try:
            return self._client.get(f"http://{LOOPBACK}:{record.port}{READY_PATH}").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def list(self, service: str | None = None) -> frozenset[str]:
        """Return the copies that have a file."""
        return frozenset(record.copy for record in self._records() if service in (None, record.service))

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        """Ask the copy itself for its metrics."""
        record = self._record(copy)
        if record is None:
            raise FleetError(f"fleet: copy {copy} is not started")
        try:
            response = self._client.get(f"http://{LOOPBACK}:{record.port}{METRICS_PATH}").raise_for_status()
        except httpx.HTTPError as error:
            raise FleetError(f"fleet: copy {copy} does not tell its metrics: {error}") from error
        try:
            return metrics.parse(response.text)
        except (ValueError, OverflowError, KeyError) as error:  # NaN among them
            raise FleetError(f"fleet: copy {copy} tells metrics that are no counts: {error}") from error

    def recorded(self, copy: str) -> Sequence[RecordedRequest]:
        """Read the files in the copy's home, which only this account can read; they go when the copy is stopped."""
        return recordings.read_all(self._homes / copy)

    def _describe(self, version: Version) -> Record:
        folder = artifacts.fetch(self._store, version.bento, self._cache)
        home = self._homes / version.copy_name
        home.mkdir(parents=True, exist_ok=True)
        with self._allocation:
            record = Record(version.copy_name, version.service, self._free_port(version.copy_name))
            text = program(
                record, bento.serve_command(folder, record.port), bento.serve_environment(home), home, self._logs
            )
            self._programs.mkdir(parents=True, exist_ok=True)
            temporary = self._programs / f".{record.copy}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._path(record.copy))
        logger.info("%s: copy %s on port %d", version.service, record.copy, record.port)
        return record

    def _free_port(self, copy: str) -> int:
        taken = {record.port for record in self._records()}
        port = next((port for port in self._ports if port not in taken and is_free(port)), None)
        if port is None:
            raise FleetError(f"fleet: no port is free for {copy}; widen SLIPWAY_COPY_PORTS")
        return port

    def _end_leftovers(self, copy: str) -> None:
        """Kill processes of a copy's earlier life: workers whose supervisor was killed keep the port, and answer.

        The copy's present family is looked up last, so that a process which has just been started is never taken for
        one of them.
        """
        found = _processes_at_home(self._homes / copy)
        info = self._supervisord.info(copy)
        family = _family(info["pid"]) if info else set()
        for process in found:
            if process not in family:
                logger.warning("killing process %d, left behind by copy %s", process.pid, copy)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _records(self) -> Iterator[Record]:
        for path in sorted(self._programs.glob("*.conf")):
            record = self._record(path.stem)
            if record is not None:
                yield record

    def _record(self, copy: str) -> Record | None:
        try:
            first, _, _ = self._path(copy).read_text(encoding="utf-8").partition("\n")
        except FileNotFoundError:
            return None
        return Record(**json.loads(first.removeprefix(_HEADER))) if first.startswith(_HEADER) else None

    def _path(self, copy: str) -> Path:
        return self._programs / f"{copy}.conf"


def program(record: Record, command: Sequence[str], environment: Mapping[str, str], directory: Path, logs: Path) -> str:
    """Return a copy's file: its record in a comment, then supervisord's section."""
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(environment.items()))
    options: dict[str, Any] = {
        "command": _escape(shlex.join(command)),
        "directory": _escape(str(directory)),
        "environment": pairs,
        "stdout_logfile": _escape(str(logs / f"{record.copy}.log")),
        "redirect_stderr": "true",
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": 3,
        "autostart": "true",
        "autorestart": "true",
        "startsecs": 1,
        "startretries": 1000,
        "stopsignal": "TERM",
        "stopwaitsecs": GRACE_SECONDS,
        "stopasgroup": "true",
        "killasgroup": "true",
    }
    lines = [f"{_HEADER}{json.dumps(asdict(record), sort_keys=True)}", f"[program:{record.copy}]"]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in options.items())]) + "\n"


def _escape(text: str) -> str:
    """Return the text as supervisord reads it back: `%` begins an expansion there, ` ;` a comment."""
    if "\n" in text or " ;" in text or '"' in text:
        raise FleetError(f"fleet: supervisord cannot hold {text!r}; use a home without quotes, line breaks and ' ;'")
    return text.replace("%", "%%")


def _processes_at_home(home: Path) -> list[psutil.Process]:
    """Return the processes of a copy, whoever started them: they carry its home in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BENTOML_HOME") == str(home):
                found.append(process)
    return found


def _family(pid: int) -> set[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return {leader, *leader.children(recursive=True)}
    except (psutil.NoSuchProcess, ValueError):
        return set()


def _wait_until_free(record: Record) -> None:
    deadline = time.monotonic() + PORT_FREE_SECONDS
    while not is_free(record.port):
        if time.monotonic() > deadline:
            raise FleetError(f"fleet: port {record.port} is still taken after {record.copy} was stopped")
        time.sleep(0.05)
