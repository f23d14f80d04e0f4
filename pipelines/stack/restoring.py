"""The databases of an installation that is being restored: the embedded server for as long as it takes, or by URL."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.backup.dumps import check_target
from pipelines.backup.manifest import SavedDatabase
from pipelines.errors import StackError
from pipelines.settings import Settings
from pipelines.stack import postgres
from pipelines.stack.layout import Layout, tail
from pipelines.stack.waiting import wait_until

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StackDatabases:
    """Where the settings want the ledger and Airflow's database."""

    settings: Settings

    def check(self, databases: tuple[SavedDatabase, ...]) -> None:
        """Refuse when a database that is named by URL is not empty or too old; the embedded one is made anew."""
        external = {"ledger": self.settings.ledger, "airflow": self.settings.airflow_db}
        for database in databases:
            if external[database.name]:
                check_target(database, external[database.name])

    @contextlib.contextmanager
    def opened(self, home: Path) -> Iterator[Mapping[str, str]]:
        """Run the embedded server with its files in `home` for a block, if anything needs it."""
        moved = self.settings.model_copy(update={"home": home})
        urls = {"ledger": moved.ledger_url(), "airflow": moved.airflow_db_url()}
        if not postgres.is_wanted(moved):
            yield urls
            return
        with _running(Layout.of(moved)):
            yield urls

    def discard(self, home: Path) -> None:
        """Remove sockets, and as root the data folder that belongs to what was begun in `home`."""
        layout = Layout.of(self.settings.model_copy(update={"home": home}))
        postgres.remove_data(layout)
        shutil.rmtree(layout.run_dir, ignore_errors=True)


@contextlib.contextmanager
def _running(layout: Layout) -> Iterator[None]:
    """Run the embedded PostgreSQL for a block; it stops with this process, however that ends."""
    layout.make()
    postgres.prepare(layout)
    program = postgres.program(layout)
    log = layout.logs / "postgres.log"
    with log.open("a") as stream:
        server = subprocess.Popen(
            program.command,
            cwd=program.directory,
            user=program.user or None,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread of this process is at work
        )

    def is_up() -> bool:
        if server.poll() is not None:
            raise StackError(f"postgres ended with {server.returncode}; the end of {log}:\n{tail(log)}")
        return postgres.accepts_connections(layout)

    try:
        wait_until(is_up, START_SECONDS, "the restored Postgres does not accept connections")
        postgres.create_databases(layout)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # fast and clean
        server.wait(STOP_SECONDS)
        shutil.rmtree(layout.run_dir, ignore_errors=True)


def _die_with_parent() -> None:
    """Ask the kernel to stop this process at once when its parent dies: a killed restore leaves no server behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
