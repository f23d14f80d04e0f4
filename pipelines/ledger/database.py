"""Connections to the ledger: short read and write transactions, one plain error when the database is away."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from pipelines.errors import LedgerUnavailable

_CLOCKS = {
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())::float8"),
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
}


@functools.cache
def engine(url: str) -> Engine:
    """Return this process' engine for a database; nothing is connected before the first use."""
    arguments = {"connect_timeout": 5} if url.startswith("postgresql") else {}
    return create_engine(url, pool_pre_ping=True, pool_size=2, max_overflow=30, connect_args=arguments)


@contextlib.contextmanager
def transaction(url: str) -> Iterator[Connection]:
    """Run a block in one transaction: all of it is committed, or, when it raises, nothing.

    Raises:
        LedgerUnavailable: when the database cannot be reached or broke off; it may be tried again.
    """
    try:
        with engine(url).begin() as connection:
            yield connection
    except (OperationalError, InterfaceError) as error:
        raise unavailable(url, error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise unavailable(url, error) from error
        raise


def unavailable(url: str, error: DBAPIError) -> LedgerUnavailable:
    """Return the plain error for a database that is away; the URL is shown without its password."""
    reason = " ".join(str(error.orig).split())
    return LedgerUnavailable(
        f"ledger: no answer from {make_url(url).render_as_string(hide_password=True)}: {reason}; "
        "start the stack (`make up`) or check SLIPWAY_LEDGER"
    )


def now(connection: Connection) -> float:
    """Return the time by the database's clock, in seconds since the epoch."""
    return round(float(connection.execute(_CLOCKS[connection.dialect.name]).scalar_one()), 6)


def _forget_connections() -> None:
    """Leave the parent's connections to the parent: two processes on one socket would read each other's answers."""
    engine.cache_clear()


os.register_at_fork(after_in_child=_forget_connections)
