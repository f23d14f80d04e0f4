"""A lease in the store: of several processes that want the same work, one does it at a time.

The holder rewrites a small object every few seconds. A rival takes over when it has itself watched the object stay
unchanged for `ttl_seconds`, so clocks of different machines are never compared. On one machine a dead holder is
recognised at once by its process id and start time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import psutil

from pipelines.errors import LeaseHeld, StoreUnavailable
from pipelines.store import Store, Versioned

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(store: Store, name: str, *, ttl_seconds: float = 30.0, wait_seconds: float = 3600.0) -> Iterator[None]:
    """Hold the lease `leases/<name>.json` for the length of a block.

    Raises:
        LeaseHeld: when another process holds it for longer than `wait_seconds`.
    """
    lease = _Lease(store, f"leases/{name}.json", ttl_seconds)
    lease.acquire(wait_seconds)
    beat = threading.Thread(target=lease.keep, name=f"lease {name}", daemon=True)
    beat.start()
    try:
        yield
    finally:
        lease.stopped.set()
        beat.join()
        lease.release()


class _Lease:
    def __init__(self, store: Store, path: str, ttl_seconds: float) -> None:
        self._store = store
        self._path = path
        self._ttl = ttl_seconds
        self._token = uuid.uuid4().hex
        self._beats = 0
        self.stopped = threading.Event()

    def acquire(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        seen: Versioned | None = None
        seen_at = 0.0
        while not self._store.create(self._path, self._content()):
            current = self._store.read_versioned(self._path)
            if current is None:
                continue
            now = time.monotonic()
            if seen is None or current.tag != seen.tag:
                if seen is None:
                    logger.info("waiting for %s, held by %s", self._path, _holder(current))
                seen, seen_at = current, now
            if (now - seen_at > self._ttl or _is_dead(current)) and self._take_over(current):
                return
            if now > deadline:
                raise LeaseHeld(
                    f"lease: {self._path} is held by {_holder(current)} for more than {wait_seconds:.0f} s; "
                    "wait for that process or stop it, then retry"
                )
            self.stopped.wait(min(1.0, self._ttl / 10))

    def keep(self) -> None:
        """Beat until stopped. A store that is away for a while is no reason to stop working."""
        while not self.stopped.wait(self._ttl / 5):
            self._beats += 1
            try:
                current = self._store.read_versioned(self._path)
                if current is None or not self._is_mine(current):
                    logger.error("lease %s was taken over while this process still works", self._path)
                    return
                self._store.replace(self._path, self._content(), current.tag)
            except StoreUnavailable as error:
                logger.warning("lease %s: no heartbeat: %s", self._path, error)

    def release(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            current = self._store.read_versioned(self._path)
            if current is not None and self._is_mine(current):
                self._store.delete(self._path)

    def _take_over(self, current: Versioned) -> bool:
        taken = self._store.replace(self._path, self._content(), current.tag)
        if taken:
            logger.warning("took over %s from %s, which stopped", self._path, _holder(current))
        return taken

    def _is_mine(self, current: Versioned) -> bool:
        return _parsed(current).get("token") == self._token

    def _content(self) -> bytes:
        process = psutil.Process()
        return json.dumps(
            {
                "token": self._token,
                "beats": self._beats,
                "host": socket.gethostname(),
                "boot": psutil.boot_time(),
                "pid": process.pid,
                "started": process.create_time(),
            }
        ).encode()


def _parsed(current: Versioned) -> dict[str, object]:
    try:
        content = json.loads(current.data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _holder(current: Versioned) -> str:
    content = _parsed(current)
    return f"process {content.get('pid')} on {content.get('host')}"


def _is_dead(current: Versioned) -> bool:
    """Return whether the holder is known to be gone: it ran on this machine and its process does not exist."""
    content = _parsed(current)
    if content.get("host") != socket.gethostname() or content.get("boot") != psutil.boot_time():
        return False
    pid, started = content.get("pid"), content.get("started")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        process = psutil.Process(pid)
        return process.create_time() != started or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
