"""Rollouts: opened by a run, moved on by whoever decides, each move one fenced transaction with one event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from pipelines.errors import SlipwayError
from pipelines.ledger import tables
from pipelines.ledger.database import now, transaction
from pipelines.ledger.events import change
from pipelines.ledger.evidence import Evidence
from pipelines.ledger.permits import STAGE, permit, permits_of
from pipelines.ledger.records import Candidate, Outcome, Phase, Rollout, RolloutState, Snapshot, Version, as_facts
from pipelines.ledger.services import service_row, to_service
from pipelines.ledger.versions import register, version_by_id
from pipelines.spec import RolloutConfig


class StaleRollout(SlipwayError):
    """Somebody else moved the rollout on since it was read; read it again."""

    retryable = True


def open_rollout(
    url: str,
    candidate: Candidate,
    *,
    run_id: str,
    forced: bool = False,
    override: str = "",
    is_direct: bool = False,
    permits: Iterable[str] = (STAGE,),
) -> Rollout:
    """Return this run's rollout that is not final; if there is none, open its next attempt, with its first permits."""
    table = tables.rollouts
    mine = (table.c.service == candidate.service) & (table.c.run_id == run_id)
    with change(url, candidate.service) as opened:
        running = opened.connection.execute(select(table).where(mine, table.c.ended_at.is_(None))).one_or_none()
        if running is not None:
            return _to_rollout(opened.connection, running)
        attempts = opened.connection.execute(select(func.count()).select_from(table).where(mine)).scalar_one()
        version = register(opened, candidate, run_id)
        values = {
            "service": candidate.service,
            "run_id": run_id,
            "attempt": attempts + 1,
            "forced": forced,
            "override": override,
            "is_direct": is_direct,
            "config": candidate.rollout.model_dump(mode="json"),
            "candidate": version.id,
            "revision": 1,
            "is_active": False,
            "opened_at": opened.now,
            **_columns(RolloutState()),
        }
        row = opened.connection.execute(insert(table).values(values).returning(table)).one()
        for transition in permits:
            permit(opened, row.id, transition)
        asked = {"forced": forced, "override": override, "is_direct": is_direct, "config": values["config"]}
        opened.record("opened", row.id, run_id=run_id, attempt=row.attempt, **asked, **_described(version))
        return _to_rollout(opened.connection, row)


def save(
    url: str, rollout: Rollout, state: RolloutState, kind: str, *, champion: Version | None = None, **facts: Any
) -> Rollout:
    """Move a rollout on: one transaction, one event. The state's generation becomes the service's.

    A rollout that gets the lock records the champion of that moment as its stable version.

    Args:
        url: the ledger.
        rollout: as it was read.
        state: what it becomes.
        kind: the event's kind.
        champion: version that this move makes the service's champion; None: the champion stays.
        facts: more for the event.

    Raises:
        StaleRollout: when it was changed since it was read; nothing is written then.
    """
    table, head = tables.rollouts, tables.services
    with change(url, rollout.service) as opened:
        values: dict[str, Any] = {
            **_columns(state),
            "revision": rollout.revision + 1,
            "is_active": state.is_active,
            "ended_at": opened.now if state.is_final else None,
        }
        if state.is_active and not rollout.state.is_active:
            current = select(head.c.champion).where(head.c.name == rollout.service)
            values["stable"] = opened.connection.execute(current).scalar_one()
        fenced = update(table).where(table.c.id == rollout.id, table.c.revision == rollout.revision)
        row = opened.connection.execute(fenced.values(values).returning(table)).one_or_none()
        if row is None:
            raise StaleRollout(f"{rollout} was changed by somebody else in the meantime")
        serving: dict[str, Any] = {"generation": max(opened.generation, state.generation)}
        if champion is not None:
            serving["champion"] = champion.id
            facts = {**facts, "champion": champion.number}
        opened.connection.execute(update(head).where(head.c.name == rollout.service).values(serving))
        opened.record(kind, rollout.id, **as_facts(state), **facts)
        return _to_rollout(opened.connection, row)


def record_release(url: str, rollout: Rollout, **facts: Any) -> None:
    """Leave the final record of a release; once, however often it is called."""
    table = tables.events
    known = select(table.c.seq).where(table.c.rollout == rollout.id, table.c.kind == "recorded")
    with change(url, rollout.service) as opened:
        if opened.connection.execute(known).one_or_none() is None:
            opened.record("recorded", rollout.id, **facts, **_described(rollout.candidate))


def read_rollout(url: str, rollout_id: int) -> Rollout:
    """Return a rollout."""
    with transaction(url) as connection:
        row = connection.execute(select(tables.rollouts).where(tables.rollouts.c.id == rollout_id)).one()
        return _to_rollout(connection, row)


def find_rollout(url: str, service: str, run_id: str) -> Rollout | None:
    """Return the latest rollout that a run opened, or None."""
    table = tables.rollouts
    query = select(table).where(table.c.service == service, table.c.run_id == run_id)
    with transaction(url) as connection:
        row = connection.execute(query.order_by(table.c.attempt.desc()).limit(1)).one_or_none()
        return None if row is None else _to_rollout(connection, row)


def find_rollout_by_id(url: str, rollout_id: int) -> Rollout | None:
    """Return a rollout, or None when there is none of that number."""
    with transaction(url) as connection:
        row = connection.execute(select(tables.rollouts).where(tables.rollouts.c.id == rollout_id)).one_or_none()
        return None if row is None else _to_rollout(connection, row)


def list_rollouts(url: str, service: str, limit: int = 50) -> list[Rollout]:
    """Return a service's rollouts, latest first."""
    table = tables.rollouts
    query = select(table).where(table.c.service == service).order_by(table.c.id.desc()).limit(limit)
    with transaction(url) as connection:
        return [_to_rollout(connection, row) for row in connection.execute(query).all()]


def earlier_trials(url: str, rollout: Rollout) -> list[Rollout]:
    """Return the earlier rollouts of the same bento in the same service that held the lock, latest first."""
    table, versions = tables.rollouts, tables.versions
    query = (
        select(table)
        .join(versions, versions.c.id == table.c.candidate)
        .where(
            table.c.service == rollout.service,
            table.c.id < rollout.id,
            table.c.generation > 0,
            versions.c.bento == rollout.candidate.bento.uri,
        )
        .order_by(table.c.id.desc())
    )
    with transaction(url) as connection:
        return [_to_rollout(connection, row) for row in connection.execute(query).all()]


def snapshot(url: str, service: str) -> Snapshot | None:
    """Return a service's present, or None when there is no such service."""
    table = tables.rollouts
    waiting = select(table).where(table.c.service == service, table.c.ended_at.is_(None))
    with transaction(url) as connection:
        row = service_row(connection, service)
        if row is None:
            return None
        first = connection.execute(waiting.order_by(table.c.is_active.desc(), table.c.id).limit(1)).one_or_none()
        return Snapshot(
            now=now(connection),
            service=to_service(connection, row),
            rollout=None if first is None else _to_rollout(connection, first),
            permits=frozenset() if first is None else permits_of(connection, first.id),
        )


def _columns(state: RolloutState) -> dict[str, Any]:
    columns = {field.name: getattr(state, field.name) for field in fields(state)}
    return {**columns, "evidence": state.evidence.model_dump(mode="json", exclude_defaults=True)}


def _described(version: Version) -> dict[str, Any]:
    return {"version": version.number, "bento": version.bento.uri, "model": version.model.uri, "spec": version.spec.uri}


def _to_rollout(connection: Connection, row: Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        service=row.service,
        run_id=row.run_id,
        attempt=row.attempt,
        forced=row.forced,
        override=row.override,
        is_direct=row.is_direct,
        config=RolloutConfig.model_validate(row.config),
        candidate=version_by_id(connection, row.candidate),
        stable=None if row.stable is None else version_by_id(connection, row.stable),
        revision=row.revision,
        opened_at=row.opened_at,
        ended_at=row.ended_at,
        state=RolloutState(
            phase=Phase(row.phase),
            is_done=row.is_done,
            step=row.step,
            generation=row.generation,
            canary_bp=row.canary_bp,
            confirmed_bp=row.confirmed_bp,
            deadline=row.deadline,
            hold_reason=row.hold_reason,
            outcome=Outcome(row.outcome),
            detail=row.detail,
            evidence=Evidence.model_validate(row.evidence),
        ),
    )
