"""A client of the supervisord under which the copies run."""

from __future__ import annotations

import xmlrpc.client
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pipelines.release.ports import FleetError


class Supervisord:
    """The few calls that a fleet needs; each opens its own connection, so threads may share the client."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def info(self, program: str) -> dict[str, Any] | None:
        """Return what supervisord knows about a program, or None when it does not know it."""
        found: dict[str, Any] | None = self.call("getProcessInfo", program, ignore="BAD_NAME")
        return found

    def add(self, program: str) -> None:
        """Read the configuration again and take up a program that is new in it, which starts it."""
        self.call("reloadConfig")
        self.call("addProcessGroup", program, ignore="ALREADY_ADDED")

    def start(self, program: str) -> None:
        """Ask for a program to be started."""
        self.call("startProcess", program, False, ignore="ALREADY_STARTED")

    def stop(self, program: str) -> None:
        """Stop a program's process group and wait for its end; one that is stopped already is left alone."""
        self.call("stopProcess", program, True, ignore="NOT_RUNNING")

    def remove(self, program: str) -> None:
        """Forget a stopped program."""
        self.call("removeProcessGroup", program, ignore="BAD_NAME")

    def call(self, method: str, *arguments: Any, ignore: str = "") -> Any:
        """Call a method of supervisord's own interface; the fault that `ignore` names counts as done.

        Raises:
            FleetError: when supervisord refuses, or does not answer.
        """
        from supervisor.xmlrpc import Faults, SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if ignore and fault.faultCode == getattr(Faults, ignore):
                return None
            call = " ".join([method, *map(str, arguments[:1])])
            raise FleetError(f"fleet: supervisord refused {call}: {fault.faultString}") from None
        except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
            raise FleetError(f"fleet: supervisord does not answer: {error}; is the stack up? (`make up`)") from None
        finally:
            transport.close()
