"""How containers end: the hook before the end, SIGTERM, the grace, SIGKILL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.cluster import probes
from tests.cluster.containers import Container

_LAST_SECONDS = 30.0
"""How long a killed process may take to be gone."""


@dataclass(frozen=True)
class Ending:
    """Why a pod must end, and when it is killed."""

    deadline: float
    """By the monotonic clock."""

    phase: str = ""
    """Phase in which the pod ends, whatever its containers do; empty: they decide."""

    reason: str = ""
    message: str = ""

    @classmethod
    def within(cls, seconds: float, phase: str = "", reason: str = "", message: str = "") -> Ending:
        """Return an ending after so many seconds of grace."""
        return cls(time.monotonic() + seconds, phase, reason, message)

    def joined(self, other: Ending) -> Ending:
        """Return this ending, at the other's deadline if that is earlier."""
        return replace(self, deadline=min(self.deadline, other.deadline))


def stop(containers: Sequence[Container], host: str, deadline: Callable[[], float]) -> None:
    """End containers: without grace they are killed at once. The hooks' time is part of the grace.

    Args:
        deadline: when they are killed; it may come nearer while they end.
    """
    has_grace = time.monotonic() < deadline()
    for container in containers if has_grace else ():
        threading.Thread(target=_ask, args=(container, host, deadline), daemon=True).start()
    while any(container.is_running for container in containers) and time.monotonic() < deadline():
        time.sleep(0.01)
    for container in containers:
        container.kill()
    for container in containers:
        container.wait(_LAST_SECONDS)


def _ask(container: Container, host: str, deadline: Callable[[], float]) -> None:
    hook = (container.spec.get("lifecycle") or {}).get("preStop") or {}
    if "sleep" in hook:
        end = time.monotonic() + hook["sleep"]["seconds"]
        while container.is_running and time.monotonic() < min(end, deadline()):
            time.sleep(0.01)
    elif hook and time.monotonic() < deadline():
        probes.ask(hook, host, container)
    container.ask()
