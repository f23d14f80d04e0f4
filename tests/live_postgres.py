"""The embedded PostgreSQL of the local stack, for tests of what only a real database does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from pipelines.settings import Settings
from pipelines.stack import postgres
from pipelines.stack.layout import Layout

DEADLINE_SECONDS = 60.0


class LivePostgres:
    """A server of its own, started as the stack starts it."""

    def __init__(self, home: Path) -> None:
        self._layout = Layout.of(Settings(home=home))
        self._layout.make()
        postgres.prepare(self._layout)
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        program = postgres.program(self._layout)
        with (self._layout.logs / "postgres.log").open("a") as log:
            self.process = subprocess.Popen(
                program.command, cwd="/", user=program.user or None, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not postgres.accepts_connections(self._layout):
            assert self.process.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        postgres.create_databases(self._layout, [name])
        return f"postgresql+psycopg2://postgres@/{name}?host={self._layout.postgres_socket}"

    def kill(self) -> None:
        """End the server without notice."""
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        """Stop the server and remove its data."""
        self.process.send_signal(signal.SIGINT)  # fast shutdown; after SIGTERM it would wait for its clients
        self.process.wait(DEADLINE_SECONDS)
        shutil.rmtree(postgres.root_folder(self._layout), ignore_errors=True)
        shutil.rmtree(self._layout.run_dir, ignore_errors=True)
