"""Versions: registered weights with their evaluation; numbered per service, never changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from pipelines.artifacts import ArtifactRef
from pipelines.ledger import tables
from pipelines.ledger.database import transaction
from pipelines.ledger.events import Change
from pipelines.ledger.records import Candidate, Phase, Version
from pipelines.spec import RolloutConfig

_ARTIFACTS = ("bento", "model", "evaluation", "spec")


def champion(url: str, service: str) -> Version | None:
    """Return the version in production, or None when there is none."""
    with transaction(url) as connection:
        return _champion(connection, service)


def champion_for_evaluation(url: str, service: str, model: ArtifactRef) -> ArtifactRef | None:
    """Return the model that a candidate must be compared with, or None when there is none.

    Weights that were promoted once keep the champion that they were first evaluated against: a run that changes
    nothing then asks for the evaluation that is already there. Weights that never got so far meet today's champion.
    """
    with transaction(url) as connection:
        first = _first_promoted(connection, service, model)
        if first is not None:
            return first.evaluated_against
        current = _champion(connection, service)
        return None if current is None else current.model


def was_promoted(url: str, service: str, model: ArtifactRef) -> bool:
    """Say whether a model was ever promoted in a service."""
    with transaction(url) as connection:
        return _first_promoted(connection, service, model) is not None


def referenced_artifacts(url: str) -> set[ArtifactRef]:
    """Return every artifact that some version names: what must not be collected as garbage."""
    table = tables.versions
    with transaction(url) as connection:
        rows = connection.execute(select(*(table.c[name] for name in _ARTIFACTS))).all()
    return {ArtifactRef.parse(uri) for row in rows for uri in row}


def register(opened: Change, candidate: Candidate, run_id: str) -> Version:
    """Return the version of a candidate, numbering it when it is new; part of a change that records the event."""
    table = tables.versions
    known = select(table).where(
        table.c.service == candidate.service,
        table.c.bento == candidate.bento.uri,
        table.c.evaluation == candidate.evaluation.uri,
    )
    row = opened.connection.execute(known).one_or_none()
    if row is None:
        last = select(func.coalesce(func.max(table.c.number), 0)).where(table.c.service == candidate.service)
        against = candidate.evaluated_against
        values = {
            **{name: getattr(candidate, name).uri for name in _ARTIFACTS},
            "service": candidate.service,
            "number": opened.connection.execute(last).scalar_one() + 1,
            "tag": candidate.tag,
            "evaluated_against": None if against is None else against.uri,
            "numbers": candidate.numbers,
            "rollout": candidate.rollout.model_dump(mode="json"),
            "is_idempotent": candidate.is_idempotent,
            "silence_seconds": candidate.silence_seconds,
            "run_id": run_id,
            "registered_at": opened.now,
        }
        row = opened.connection.execute(insert(table).values(values).returning(table)).one()
    return _to_version(row)


def promoted_versions(url: str, service: str) -> list[Version]:
    """Return the versions that were in production, the latest first."""
    table, rollouts = tables.versions, tables.rollouts
    promoted = select(rollouts.c.candidate).where(rollouts.c.service == service, rollouts.c.phase == Phase.PROMOTED)
    query = select(table).where(table.c.id.in_(promoted)).order_by(table.c.id.desc())
    with transaction(url) as connection:
        return [_to_version(row) for row in connection.execute(query)]


def promotions(url: str, service: str, limit: int) -> list[tuple[int, float]]:
    """Return the numbers of versions that were in production, and when each last became it, the latest first."""
    table, rollouts = tables.versions, tables.rollouts
    since = func.max(rollouts.c.ended_at)
    query = select(table.c.number, since).join(rollouts, rollouts.c.candidate == table.c.id)
    promoted = query.where(table.c.service == service, rollouts.c.phase == Phase.PROMOTED).group_by(table.c.number)
    with transaction(url) as connection:
        rows = connection.execute(promoted.order_by(since.desc(), table.c.number.desc()).limit(limit)).all()
    return [(number, float(moment)) for number, moment in rows]


def version_by_id(connection: Connection, version_id: int) -> Version:
    """Return a version."""
    return _to_version(connection.execute(select(tables.versions).where(tables.versions.c.id == version_id)).one())


def _champion(connection: Connection, service: str) -> Version | None:
    table = tables.versions
    query = select(table).join(tables.services, tables.services.c.champion == table.c.id)
    row = connection.execute(query.where(tables.services.c.name == service)).one_or_none()
    return None if row is None else _to_version(row)


def _first_promoted(connection: Connection, service: str, model: ArtifactRef) -> Version | None:
    table, rollouts = tables.versions, tables.rollouts
    query = select(table).join(rollouts, rollouts.c.candidate == table.c.id)
    promoted = query.where(table.c.service == service, table.c.model == model.uri, rollouts.c.phase == Phase.PROMOTED)
    row = connection.execute(promoted.order_by(rollouts.c.id).limit(1)).one_or_none()
    return None if row is None else _to_version(row)


def _to_version(row: Row[Any]) -> Version:
    return Version(
        id=row.id,
        service=row.service,
        number=row.number,
        tag=row.tag,
        run_id=row.run_id,
        numbers=row.numbers,
        rollout=RolloutConfig.model_validate(row.rollout),
        is_idempotent=row.is_idempotent,
        silence_seconds=row.silence_seconds,
        evaluated_against=None if row.evaluated_against is None else ArtifactRef.parse(row.evaluated_against),
        **{name: ArtifactRef.parse(getattr(row, name)) for name in _ARTIFACTS},
    )
