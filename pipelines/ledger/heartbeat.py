"""The controller's sign of life by the database's clock, and the lock that keeps it single."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from pipelines.ledger import tables
from pipelines.ledger.database import engine, now, transaction, unavailable

logger = logging.getLogger(__name__)

CONTROLLER = "controller"
_LOCK = 5_719_201
"""Number of the advisory lock; any, as long as nobody else uses it in this database."""


def beat(url: str) -> None:
    """Say that the controller is alive."""
    table = tables.heartbeats
    with transaction(url) as connection:
        values = {"at": now(connection)}
        if not connection.execute(update(table).where(table.c.process == CONTROLLER).values(values)).rowcount:
            connection.execute(insert(table).values(process=CONTROLLER, **values))


def current_time(url: str) -> float:
    """Return the time by the ledger's clock, in seconds since the epoch."""
    with transaction(url) as connection:
        return now(connection)


def silence_seconds(url: str, since: float) -> float:
    """Return for how long the controller was silent, counted from `since` (by the ledger's clock) at the earliest."""
    table = tables.heartbeats
    with transaction(url) as connection:
        last = connection.execute(select(table.c.at).where(table.c.process == CONTROLLER)).scalar_one_or_none()
        return now(connection) - max(since, last or 0.0)


@contextlib.contextmanager
def controller_lock(url: str) -> Iterator[Callable[[], None]]:
    """Hold the lock of the only controller, waiting while another one has it.

    Yields a check that raises LedgerUnavailable when the lock was lost together with its connection.

    Raises:
        LedgerUnavailable: when the database is away.
    """
    try:
        with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _take_lock(connection)
            yield lambda: connection.execute(text("SELECT 1")).close()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
    except DBAPIError as error:
        raise unavailable(url, error) from error


def _take_lock(connection: Connection) -> None:
    is_told = False
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar():
        if not is_told:
            logger.info("another controller is at work; standing by")
            is_told = True
        time.sleep(1.0)
