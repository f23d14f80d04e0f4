"""By how much the memory of this process grows while something is done."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_SECONDS = 0.001

_M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""

_MAPPED_BYTES = 1 << 17
"""From this size on, memory is given back as soon as it is free, as that of real models' tensors is, which are larger
than any threshold that malloc chooses by itself; else what lies between two small pieces counts, now and then."""


@contextmanager
def watched() -> Iterator[list[int]]:
    """Yield by how many bytes this process's own memory grew at most; known in the end."""
    gc.collect()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    libc.malloc_trim(0)  # what was freed before does not hide what is allocated now
    growth, is_over, before = [0], threading.Event(), _own_bytes()

    def look() -> None:
        while not is_over.wait(_LOOK_SECONDS):
            growth[0] = max(growth[0], _own_bytes() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield growth
    finally:
        is_over.set()
        thread.join()


def _own_bytes() -> int:
    """Return the memory that is no file's: what is mapped from one costs nothing that another rank has not paid."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
