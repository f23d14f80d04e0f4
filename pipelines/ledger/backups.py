"""Backups in the ledger: what one must hold, which there are, and what a restored ledger begins with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, delete, insert, make_url, select, text
from sqlalchemy.exc import InterfaceError, OperationalError

from pipelines.errors import BadInput
from pipelines.ledger import tables
from pipelines.ledger.database import engine, now, transaction, unavailable
from pipelines.ledger.events import change, verify_chain
from pipelines.ledger.records import Outcome, Phase, Version
from pipelines.ledger.rollouts import read_rollout, save
from pipelines.ledger.services import list_services, service_row, to_service
from pipelines.ledger.versions import version_by_id

_SERVED = (Phase.PROMOTED, Phase.BAKE_FULL, Phase.DRAIN_OLD)
"""Phases of a rollout whose candidate has the users."""


@dataclass(frozen=True)
class ServiceNow:
    """What serves, and what served before it."""

    name: str
    port: int | None
    champion: Version | None
    previous: Version | None
    """Champion before this one: what a rollback would bring back."""


@dataclass(frozen=True)
class View:
    """The ledger at one moment. While it is open, `pg_dump --snapshot` with its id dumps exactly this."""

    now: float
    snapshot_id: str
    services: tuple[ServiceNow, ...]


@dataclass(frozen=True)
class BackupRecord:
    """A backup as the ledger knows it."""

    id: str
    digest: str
    created_at: float
    reason: str
    num_files: int
    size_bytes: int
    written_bytes: int


@contextlib.contextmanager
def view(url: str) -> Iterator[View]:
    """Hold the ledger still for a block, for this process and for a dump; writers are not held up.

    Raises:
        BadInput: when the ledger is not on PostgreSQL.
        LedgerUnavailable: when it is away.
    """
    if not url.startswith("postgresql"):
        raise BadInput(f"backup: a ledger on {make_url(url).get_backend_name()} cannot be dumped; use PostgreSQL")
    try:
        with engine(url).connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield View(
                now=now(connection),
                snapshot_id=connection.execute(text("SELECT pg_export_snapshot()")).scalar_one(),
                services=tuple(_service_now(connection, name) for name in _names(connection)),
            )
    except (OperationalError, InterfaceError) as error:
        raise unavailable(url, error) from error


def record_backup(url: str, backup: BackupRecord, champions: Mapping[str, int]) -> None:
    """Note a backup that exists, once, with an event for each service whose champion it holds."""
    table = tables.backups
    with transaction(url) as connection:
        if connection.execute(select(table.c.id).where(table.c.id == backup.id)).one_or_none() is not None:
            return
        connection.execute(insert(table).values(vars(backup)))
    for service, number in sorted(champions.items()):
        with change(url, service) as opened:
            opened.record("backed_up", backup=backup.id, digest=backup.digest, version=number)


def forget_backups(url: str, backups: Iterable[str]) -> None:
    """Remove the notes of backups that retention has removed; the events stay."""
    table = tables.backups
    with transaction(url) as connection:
        connection.execute(delete(table).where(table.c.id.in_(list(backups))))


def list_backups(url: str) -> list[BackupRecord]:
    """Return the backups that the ledger knows, the latest first."""
    query = select(tables.backups).order_by(tables.backups.c.created_at.desc())
    with transaction(url) as connection:
        return [BackupRecord(**row._mapping) for row in connection.execute(query)]


def list_saved_versions(url: str, service: str, limit: int) -> list[tuple[str, int]]:
    """Return the names of the backups that hold a version of a service in production, with its number; latest first."""
    table, backups = tables.events, tables.backups
    query = select(table.c.facts).where(table.c.service == service, table.c.kind == "backed_up")
    known = query.where(table.c.facts["backup"].as_string().in_(select(backups.c.id)))
    with transaction(url) as connection:
        rows = connection.execute(known.order_by(table.c.seq.desc()).limit(limit)).scalars()
        return [(facts["backup"], facts["version"]) for facts in rows]


def knows_schema(revision: str) -> bool:
    """Say whether this code can read a ledger at an alembic revision."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return revision in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def settle(url: str, backup: str) -> None:
    """Make a restored ledger one that a new controller can start from: only champions serve, nothing is half-way.

    A rollout that was under way when the backup was made is over: its copies do not exist here.

    Raises:
        ChainBroken: when the events that were restored are not the ones that were written.
    """
    table = tables.rollouts
    for service in list_services(url):
        verify_chain(url, service)
        with transaction(url) as connection:
            row = service_row(connection, service)
            champion = None if row is None else row.champion
            query = select(table.c.id).where(table.c.service == service, table.c.ended_at.is_(None))
            under_way = list(connection.execute(query.order_by(table.c.id)).scalars())
        for rollout_id in under_way:
            _end(url, rollout_id, champion, f"the installation was restored from backup {backup}")
        with change(url, service) as opened:
            opened.record("restored", backup=backup)


def _end(url: str, rollout_id: int, champion: int | None, detail: str) -> None:
    rollout = read_rollout(url, rollout_id)
    has_won = rollout.state.phase in _SERVED and rollout.candidate.id == champion
    ended = replace(
        rollout.state,
        phase=Phase.PROMOTED if has_won else Phase.ROLLED_BACK,
        outcome=Outcome.PROMOTED if has_won else Outcome.ABORTED,
        is_done=True,
        generation=rollout.state.generation + 1,
        canary_bp=0,
        confirmed_bp=None,
        deadline=None,
        hold_reason="",
        detail=detail,
    )
    save(url, rollout, ended, str(ended.phase))


def _names(connection: Connection) -> list[str]:
    return list(connection.execute(select(tables.services.c.name).order_by(tables.services.c.name)).scalars())


def _service_now(connection: Connection, name: str) -> ServiceNow:
    service = to_service(connection, connection.execute(select(tables.services).filter_by(name=name)).one())
    previous = None if service.champion is None else _previous(connection, service.champion)
    return ServiceNow(name=name, port=service.port, champion=service.champion, previous=previous)


def _previous(connection: Connection, champion: Version) -> Version | None:
    table = tables.rollouts
    served = select(table.c.stable).where(table.c.candidate == champion.id, table.c.phase.in_(_SERVED))
    replaced = served.where(table.c.stable != champion.id).order_by(table.c.id.desc()).limit(1)
    version_id = connection.execute(replaced).scalar_one_or_none()
    return None if version_id is None else version_by_id(connection, version_id)
