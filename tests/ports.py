"""Ports of 127.0.0.1 for servers that must be told theirs, which nobody else takes meanwhile.

They lie below those that the kernel gives to whoever asks for any, and each process locks a block of them at a time, so
that other workers of the tests, and other test runs on this machine, find others. A block stays its process's own until
that ends.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.release.local.router import is_free

BLOCK = 50
_FIRST, _LAST = 10_000, 32_000


def own_block() -> range:
    """Return 50 ports in a row that are free."""
    folder = Path(tempfile.gettempdir()) / f"slipway-test-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(_FIRST, _LAST, BLOCK):
        block = range(first, first + BLOCK)
        if _lock(folder / f"{first}.lock") and all(map(is_free, block)):
            return block
    raise AssertionError(f"no free ports between {_FIRST} and {_LAST}")


def own_ranges() -> dict[str, str]:
    """Return the settings of an installation's ports: some for services, the others for copies."""
    services, copies = own_block(), own_block()
    return {"service_ports": _written(services), "copy_ports": _written(copies)}


def own_port() -> int:
    """Return a port that is free, and that this process has not been given before."""
    return next(_ports)


def _lock(path: Path) -> bool:
    """Lock a file until this process ends, if nobody has."""
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True  # the file stays open


def _written(block: range) -> str:
    return f"{block[0]}-{block[-1]}"


def _blocks() -> Iterator[range]:
    while True:
        yield own_block()


_ports = itertools.chain.from_iterable(_blocks())
