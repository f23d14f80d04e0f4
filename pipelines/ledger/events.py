"""Append-only events, hash-chained per service: every change of state leaves exactly one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipelines.artifacts import canonical_json
from pipelines.errors import SlipwayError
from pipelines.ledger import tables
from pipelines.ledger.database import now, transaction


class ChainBroken(SlipwayError):
    """An event was altered, removed or put in between."""


@dataclass(frozen=True)
class Event:
    """One change of state, with its place in the service's chain."""

    service: str
    seq: int
    at: float
    kind: str
    rollout: int | None
    facts: dict[str, Any]
    previous: str
    hash: str

    def computed_hash(self) -> str:
        """Return the sha256 over everything else in the event."""
        content = {
            "service": self.service,
            "seq": self.seq,
            "at": self.at,
            "kind": self.kind,
            "rollout": self.rollout,
            "facts": self.facts,
            "previous": self.previous,
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()


class Change:
    """An open transaction that holds a service's head row; it may read, write, and must leave one event."""

    def __init__(self, connection: Connection, head: Row[Any]) -> None:
        self.connection = connection
        self.service: str = head.name
        self.generation: int = head.generation
        self.now = now(connection)
        self._head = head
        self.is_recorded = False

    def record(self, kind: str, rollout: int | None = None, **facts: Any) -> None:
        """Append this change's event.

        Raises:
            RuntimeError: at a second event; a change of state is one event.
        """
        if self.is_recorded:
            raise RuntimeError(f"a second event, {kind}, in one change of {self.service}")
        draft = Event(self.service, self._head.head_seq, self.now, kind, rollout, facts, self._head.head_hash, "")
        digest = draft.computed_hash()
        self.connection.execute(
            insert(tables.events).values(
                service=draft.service,
                seq=draft.seq,
                at=draft.at,
                kind=kind,
                rollout=rollout,
                facts=facts,
                previous=draft.previous,
                hash=digest,
            )
        )
        self.connection.execute(_named(self.service).values(head_hash=digest))
        self.is_recorded = True


class _NothingChanged(Exception):
    """Leaves a transaction in which no event was recorded, so that it is rolled back."""


@contextlib.contextmanager
def change(url: str, service: str) -> Iterator[Change]:
    """Lock a service's head row and run one change of its state; a block that records no event changes nothing.

    The first statement takes the next place in the chain, which locks the row until the end of the transaction.
    """
    with contextlib.suppress(_NothingChanged), transaction(url) as connection:
        opened = Change(connection, _take_place(connection, service))
        yield opened
        if not opened.is_recorded:
            raise _NothingChanged


def events(url: str, service: str, *, rollout: int | None = None, after: int = 0) -> list[Event]:
    """Return a service's events, oldest first.

    Args:
        url: the ledger.
        service: whose.
        rollout: only this rollout's; None: all.
        after: only those with a higher `seq`.
    """
    table = tables.events
    query = select(table).where(table.c.service == service, table.c.seq > after).order_by(table.c.seq)
    if rollout is not None:
        query = query.where(table.c.rollout == rollout)
    with transaction(url) as connection:
        return [Event(**row._mapping) for row in connection.execute(query)]


def verify_chain(url: str, service: str) -> int:
    """Recompute a service's chain and return the number of its events.

    Raises:
        ChainBroken: names the first event that does not fit.
    """
    with transaction(url) as connection:
        head = connection.execute(select(tables.services).where(tables.services.c.name == service)).one_or_none()
        query = select(tables.events).where(tables.events.c.service == service).order_by(tables.events.c.seq)
        chain = [Event(**row._mapping) for row in connection.execute(query)]
    previous = ""
    for place, event in enumerate(chain, start=1):
        if event.seq != place or event.previous != previous or event.hash != event.computed_hash():
            raise ChainBroken(f"ledger: event {place} of {service} was altered or removed; restore the ledger's backup")
        previous = event.hash
    if head is not None and (head.head_seq, head.head_hash) != (len(chain), previous):
        raise ChainBroken(f"ledger: the last events of {service} were removed; restore the ledger's backup")
    return len(chain)


def _take_place(connection: Connection, service: str) -> Row[Any]:
    place = _named(service).values(head_seq=tables.services.c.head_seq + 1).returning(tables.services)
    head = connection.execute(place).one_or_none()
    if head is None:
        with contextlib.suppress(IntegrityError), connection.begin_nested():  # another process may be first
            connection.execute(insert(tables.services).values(name=service))
        head = connection.execute(place).one()
    return head


def _named(service: str) -> Any:
    return update(tables.services).where(tables.services.c.name == service)
