"""Ledgers on SQLite, quick to make: the schema is migrated once, then copied; nothing waits for the disk."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from pipelines import ledger


@event.listens_for(Engine, "connect")
def _do_not_wait_for_the_disk(connection: Any, _record: object) -> None:
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")


@functools.cache
def _template() -> Path:
    path = Path(tempfile.mkdtemp()) / "ledger.db"
    ledger.migrate(f"sqlite:///{path}")
    return path


def new_ledger(path: Path) -> str:
    """Make an empty ledger in a file and return its URL."""
    shutil.copy(_template(), path)
    return f"sqlite:///{path}"
