"""Where the local stack keeps its files; pure paths, nothing is made here except private folders."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import StackError
from pipelines.settings import Settings


@dataclass(frozen=True)
class Layout:
    """Paths of one installation's stack."""

    home: Path
    run_dir: Path

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        """Return the paths that belong to these settings."""
        return cls(home=settings.resolved_home(), run_dir=settings.run_dir)

    @property
    def logs(self) -> Path:
        """Folder with one rotated log per program."""
        return self.home / "logs"

    @property
    def supervisor_conf(self) -> Path:
        """The generated configuration of supervisord."""
        return self.home / "supervisor" / "supervisord.conf"

    @property
    def programs(self) -> Path:
        """Folder whose `*.conf` files supervisord includes: the release controller adds bentos here."""
        return self.home / "supervisor" / "programs"

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder (`AIRFLOW_HOME`)."""
        return self.home / "airflow"

    @property
    def airflow_secrets(self) -> Path:
        """What this installation's Airflow keeps secret."""
        return self.airflow_home / "secrets.json"

    @property
    def airflow_passwords(self) -> Path:
        """The password file of Airflow's simple auth manager."""
        return self.airflow_home / "passwords.json"

    @property
    def supervisor_socket(self) -> Path:
        """The socket on which supervisord answers."""
        return self.run_dir / "supervisor.sock"

    @property
    def supervisor_identity(self) -> Path:
        """Record of the running supervisord: pid, start time, ports."""
        return self.run_dir / "supervisord.json"

    @property
    def postgres_socket(self) -> Path:
        """Folder of the embedded Postgres' socket."""
        return self.run_dir / "pg"

    @property
    def lock(self) -> Path:
        """File that `up` and `down` lock, so that only one of them works at a time."""
        return self.home / "stack.lock"

    def make(self) -> None:
        """Make the folders; those that hold secrets or sockets are for their owner only.

        Raises:
            StackError: when somebody else owns the folder for sockets.
        """
        for folder in (self.home, self.logs, self.programs, self.airflow_home):
            folder.mkdir(parents=True, exist_ok=True)
        self.airflow_home.chmod(0o700)
        self.supervisor_conf.parent.chmod(0o700)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        found = self.run_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise StackError(f"{self.run_dir} belongs to somebody else; set TMPDIR to a folder of your own")
        # As root, Postgres runs as another user and must reach its own folder inside: traverse, but not list.
        self.run_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a text file; an absent file is empty."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 64 * 1024))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
