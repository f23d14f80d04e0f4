"""Ledgers on SQLite, quick to make: the schema is migrated once, then copied; nothing waits for the disk.

A ledger may have a clock of its own, which only a test moves.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from pipelines import ledger
from pipelines.ledger.database import engine

_EPOCH = 2_440_587.5
"""1970-01-01 as a Julian day, which is how SQLite tells the time."""


@dataclass
class Clock:
    """Seconds since the epoch, as a test says."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


_clocks: dict[str, Clock | None] = {}


@event.listens_for(Engine, "connect")
def _prepare(connection: Any, _record: object) -> None:
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        clock = _clocks.get(connection.execute("PRAGMA database_list").fetchone()[2])
        if clock is not None:
            connection.create_function("julianday", 1, lambda _now: clock.now / 86_400.0 + _EPOCH)


@functools.cache
def _template() -> bytes:
    path = Path(tempfile.mkdtemp()) / "ledger.db"
    ledger.migrate(f"sqlite:///{path}")
    return path.read_bytes()


@functools.cache
def _default_path() -> Path:
    return Path(tempfile.mkdtemp()) / "ledger.db"


def new_ledger(path: Path | None = None, clock: Clock | None = None, content: bytes = b"") -> str:
    """Make a ledger and return its URL.

    Args:
        path: of its file; None: always the same one, emptied. That is quicker, for compiled statements are kept.
        clock: what time it is; None: the machine's.
        content: of another ledger's file, whose copy it is; none: it is empty.
    """
    path = path or _default_path()
    url = f"sqlite:///{path}"
    engine(url).dispose()
    path.write_bytes(content or _template())
    _clocks[str(path)] = clock
    return url
