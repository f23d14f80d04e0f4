"""Services: name, endpoint port, champion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, select, update

from pipelines.errors import ReleaseRefused
from pipelines.ledger import tables
from pipelines.ledger.database import transaction
from pipelines.ledger.events import change
from pipelines.ledger.records import Service
from pipelines.ledger.versions import version_by_id


def list_services(url: str) -> list[str]:
    """Return the names of all services."""
    with transaction(url) as connection:
        return list(connection.execute(select(tables.services.c.name).order_by(tables.services.c.name)).scalars())


def read_service(url: str, name: str) -> Service | None:
    """Return a service, or None when nothing of that name was ever released."""
    with transaction(url) as connection:
        row = service_row(connection, name)
        return None if row is None else to_service(connection, row)


def claimed_ports(url: str) -> dict[str, int]:
    """Return the endpoint port of every service that has one."""
    table = tables.services
    with transaction(url) as connection:
        rows = connection.execute(select(table.c.name, table.c.port).where(table.c.port.is_not(None)))
        return {row.name: row.port for row in rows}


def claim_port(url: str, service: str, free: Iterable[int]) -> int:
    """Return a service's endpoint port; the first time, the first of `free` that no other service has.

    Raises:
        ReleaseRefused: when no port is left.
    """
    table = tables.services
    with change(url, service) as opened:
        mine = service_row(opened.connection, service)
        if mine is not None and mine.port is not None:
            return int(mine.port)
        taken = set(opened.connection.execute(select(table.c.port)).scalars())
        port = next((port for port in free if port not in taken), None)
        if port is None:
            raise ReleaseRefused(f"{service}: no endpoint port is free; widen SLIPWAY_SERVICE_PORTS")
        opened.connection.execute(update(table).where(table.c.name == service).values(port=port))
        opened.record("port_claimed", port=port)
    return port


def service_row(connection: Connection, name: str) -> Row[Any] | None:
    """Return a service's row."""
    return connection.execute(select(tables.services).where(tables.services.c.name == name)).one_or_none()


def to_service(connection: Connection, row: Row[Any]) -> Service:
    """Return a service from its row."""
    champion = None if row.champion is None else version_by_id(connection, row.champion)
    return Service(name=row.name, port=row.port, champion=champion, generation=row.generation)
