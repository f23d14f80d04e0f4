"""Wait for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.errors import StackError

POLL_SECONDS = 0.2


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return as soon as the condition holds.

    Args:
        condition: asked every fifth of a second; whatever it raises ends the wait.
        seconds: deadline.
        otherwise: what to say when the deadline passes.

    Raises:
        StackError: when the deadline passes.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{otherwise} (waited {seconds:.0f} s)")
        time.sleep(POLL_SECONDS)
