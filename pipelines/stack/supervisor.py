"""supervisord: its configuration as text, and a small typed client for its XML-RPC interface."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import StackError
from pipelines.release.local.supervisord import Supervisord
from pipelines.release.ports import FleetError
from pipelines.stack.layout import Layout


@dataclass(frozen=True)
class Program:
    """One supervised program. It never starts by itself: `up` starts it when what it needs is there."""

    name: str
    command: Sequence[str]
    directory: Path
    user: str = ""
    stop_signal: str = "TERM"
    stop_wait_seconds: int = 15
    start_seconds: int = 1

    def section(self, logs: Path) -> str:
        """Return this program's part of the configuration file."""
        lines = [
            f"[program:{self.name}]",
            f"command={escape(shlex.join(self.command))}",
            f"directory={escape(str(self.directory))}",
            f"stdout_logfile={escape(str(logs / self.name))}.log",
            "redirect_stderr=true",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=3",
            "autostart=false",
            "autorestart=true",
            f"startsecs={self.start_seconds}",
            "startretries=100",
            f"stopsignal={self.stop_signal}",
            f"stopwaitsecs={self.stop_wait_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
        ]
        if self.user:
            lines.append(f"user={self.user}")
        return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return the text as supervisord's configuration reads it back: `%` starts an expansion there, ` ;` a comment."""
    if "\n" in text or " ;" in text:
        raise StackError(f"supervisord cannot hold a line break or ' ;' in a value, got {text!r}")
    return text.replace("%", "%%")


def configuration(layout: Layout, programs: Sequence[Program], user: str = "") -> str:
    """Return supervisord's whole configuration: its socket, its log, the programs, and the folder for more of them."""
    head = [
        "; Written by `make up`; changes are lost at the next start.",
        "[unix_http_server]",
        f"file={escape(str(layout.supervisor_socket))}",
        "chmod=0700",
        "",
        "[supervisord]",
        f"logfile={escape(str(layout.logs / 'supervisord.log'))}",
        "logfile_maxbytes=20MB",
        "logfile_backups=3",
        f"pidfile={escape(str(layout.run_dir / 'supervisord.pid'))}",
        f"childlogdir={escape(str(layout.logs))}",
        "nodaemon=true",
        "minfds=4096",
        *([f"user={user}"] if user else []),
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
        "[include]",
        f"files={escape(str(layout.programs))}/*.conf",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(program.section(layout.logs) for program in programs)


@dataclass(frozen=True)
class ProgramState:
    """What supervisord knows about one program."""

    name: str
    state: str
    pid: int
    started: float
    """When it started, seconds since the epoch; 0 when it never did."""

    @property
    def is_running(self) -> bool:
        """Say whether the program is up."""
        return self.state == "RUNNING"

    @property
    def is_stopped(self) -> bool:
        """Say whether it has ended and supervisord will not start it again."""
        return self.state in ("STOPPED", "EXITED", "FATAL")


class Supervisor:
    """Client of the running supervisord."""

    def __init__(self, socket_path: Path) -> None:
        self._socket = socket_path

    def is_alive(self) -> bool:
        """Say whether supervisord answers on its socket."""
        if not self._socket.exists():
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        try:
            self.states()
        except StackError:
            return False
        return True

    def states(self) -> list[ProgramState]:
        """Return the state of every program, those that were added at run time included."""
        return [
            ProgramState(
                name=str(row["name"]),
                state=str(row["statename"]),
                pid=int(row["pid"]),
                started=float(row["start"]) if row["pid"] else 0.0,
            )
            for row in self._call("getAllProcessInfo")
        ]

    def start(self, name: str) -> None:
        """Ask for a program to be started; one that is started already is left alone."""
        self._call("startProcess", name, False, ignore="ALREADY_STARTED")

    def stop(self, name: str) -> None:
        """Ask for a program to be stopped; one that is stopped already is left alone."""
        self._call("stopProcess", name, False, ignore="NOT_RUNNING")

    def shutdown(self) -> None:
        """Ask supervisord to stop everything that is left, then itself."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: Any, ignore: str = "") -> Any:
        try:
            return Supervisord(self._socket).call(method, *arguments, ignore=ignore)
        except FleetError as error:
            raise StackError(str(error)) from None
