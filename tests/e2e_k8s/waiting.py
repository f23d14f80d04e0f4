"""A wait that may end in vain: what that means is for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_SECONDS = 0.5


def comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
