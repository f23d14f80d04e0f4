"""Processes that die with the cluster: each behind a shim."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

KILL = signal.SIGUSR1
"""Ends a process, and all that it started, at once."""

_SHIM = [sys.executable, "-I", "-S", str(Path(__file__).with_name("shim.py"))]


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    output: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a command; SIGTERM to the process is passed on, `KILL` ends it, both from the first moment on."""
    with _held_back(signal.SIGTERM, KILL):
        return subprocess.Popen(
            [*_SHIM, str(os.getpid()), *command],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    """Let processes that are started in a block find signals waiting until they are ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
