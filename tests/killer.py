"""Processes that are killed at a chosen point of their work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any


class Killer:
    """Ends this process without notice at its n-th call of chosen functions."""

    def __init__(self, point: int) -> None:
        self._left = point
        self._lock = threading.Lock()

    def before(self, owner: Any, name: str, last_act: Callable[..., None] = lambda *_: None) -> None:
        """Count the calls of a function; `last_act` is what is done of the one that never ends."""
        function = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    last_act(*arguments)
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        setattr(owner, name, counted)


def is_killed(act: Callable[[], object]) -> bool:
    """Run something in a process of its own; say whether it was killed, rather than done."""
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
