"""Processes that die with the cluster: each behind a shim."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
    """Start a command; SIGTERM to the process is passed on, `KILL` ends it."""
    return subprocess.Popen(
        [*_SHIM, str(os.getpid()), *command],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
