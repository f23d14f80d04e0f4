"""Permits: a transition of a rollout may happen once somebody answers for it, an Airflow task or a person."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from pipelines.ledger import tables
from pipelines.ledger.events import Change, change

STAGE = "stage"
"""The permit that comes with opening a rollout."""


def insert_permit(url: str, service: str, rollout_id: int, transition: str, *, approved_by: str = "") -> bool:
    """Permit a transition; return whether it was not permitted before. The approver, if any, is kept in the event."""
    with change(url, service) as opened:
        if transition in permits_of(opened.connection, rollout_id):
            return False
        permit(opened, rollout_id, transition)
        approval = {"approved_by": approved_by} if approved_by else {}
        opened.record("permitted", rollout_id, transition=transition, **approval)
    return True


def permit(opened: Change, rollout_id: int, transition: str) -> None:
    """Insert a permit; part of a change that records the event."""
    values = {"rollout": rollout_id, "transition": transition, "inserted_at": opened.now}
    opened.connection.execute(insert(tables.permits).values(values))


def permits_of(connection: Connection, rollout_id: int) -> frozenset[str]:
    """Return the transitions that a rollout may make."""
    query = select(tables.permits.c.transition).where(tables.permits.c.rollout == rollout_id)
    return frozenset(connection.execute(query).scalars())
