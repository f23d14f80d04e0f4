"""TCP ports on 127.0.0.1: is one free, who holds it?"""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from pipelines.errors import StackError
from pipelines.release.local.router import is_free

__all__ = ["LOOPBACK", "holder", "is_free", "require_free"]

LOOPBACK = "127.0.0.1"


def holder(port: int) -> str:
    """Return `name (pid N)` of the process that listens on the port, as far as this user may see it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                break
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another process"


def require_free(wanted: Mapping[str, int]) -> None:
    """Check that every wanted port is free.

    Args:
        wanted: port by the environment variable that sets it.

    Raises:
        StackError: names the first port that is taken, who holds it, and the variable to change.
    """
    for variable, port in wanted.items():
        if not is_free(port):
            raise StackError(
                f"port {port} on {LOOPBACK} is taken by {holder(port)}; stop it, or set {variable} to a free port"
            )
