"""Airflow on one machine: its configuration file, its secrets, its migrations, its four components."""

from __future__ import annotations

import configparser
import io
import json
import os
import secrets
import subprocess
import sys
from importlib import metadata

from pydantic import BaseModel, ConfigDict

from pipelines.errors import StackError
from pipelines.settings import REPOSITORY, Settings
from pipelines.stack.layout import Layout, tail, write_private
from pipelines.stack.ports import LOOPBACK
from pipelines.stack.supervisor import Program

USER = "admin"
POOLS = {"training": 1, "release": 16}
"""Slots by pool. One training at a time; ledger steps wait deferred, so `release` only bounds what starts at once."""

COMPONENTS = {
    "airflow-api-server": ("api-server", "--workers", "1"),
    "airflow-scheduler": ("scheduler", "--skip-serve-logs"),
    "airflow-dag-processor": ("dag-processor",),
    "airflow-triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Arguments by program name; the log servers would listen on every interface, so they stay off."""


class Secrets(BaseModel):
    """What this installation's Airflow keeps secret; made once."""

    model_config = ConfigDict(frozen=True)

    password: str
    jwt_secret: str
    secret_key: str
    fernet_key: str

    @classmethod
    def load(cls, layout: Layout) -> Secrets:
        """Return the installation's secrets.

        Raises:
            StackError: when there are none: no stack was ever started here.
        """
        path = layout.airflow_secrets
        if not path.exists():
            raise StackError(f"there is no stack in {layout.home}; start it (`make up`) or check SLIPWAY_HOME")
        return cls.model_validate_json(path.read_bytes())

    @classmethod
    def load_or_make(cls, layout: Layout) -> Secrets:
        """Return the installation's secrets, making them on the first call."""
        if layout.airflow_secrets.exists():
            return cls.load(layout)
        from cryptography.fernet import Fernet

        made = cls(
            password=secrets.token_urlsafe(12),
            jwt_secret=secrets.token_urlsafe(48),
            secret_key=secrets.token_urlsafe(48),
            fernet_key=Fernet.generate_key().decode(),
        )
        write_private(layout.airflow_secrets, made.model_dump_json(indent=1))
        return made


def base_url(settings: Settings) -> str:
    """Return the address of Airflow's UI and REST API."""
    return f"http://{LOOPBACK}:{settings.airflow_port}"


def database_url(settings: Settings) -> str:
    """Return the URL of Airflow's database: what Airflow itself was told, else what the settings say."""
    return os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") or settings.airflow_db_url()


def credentials(settings: Settings) -> str:
    """Return user and password for reading."""
    return f"user {USER}  password {Secrets.load(Layout.of(settings)).password}"


def configuration(settings: Settings, made: Secrets) -> str:
    """Return `airflow.cfg`. A file, not environment variables: what tasks start must not inherit secrets."""
    layout = Layout.of(settings)
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": REPOSITORY / "dags",
            "plugins_folder": REPOSITORY / "plugins",
            "executor": "LocalExecutor",
            "parallelism": 4,  # the default forks 32 workers
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "execution_api_server_url": f"{base_url(settings)}/execution/",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": layout.airflow_passwords,
            "fernet_key": made.fernet_key,
        },
        "database": {"sql_alchemy_conn": database_url(settings)},
        "api": {
            "host": LOOPBACK,
            "port": settings.airflow_port,
            "base_url": base_url(settings),
            "secret_key": made.secret_key,
        },
        "api_auth": {"jwt_secret": made.jwt_secret},
        "logging": {"base_log_folder": layout.airflow_home / "logs", **_remote_logging(settings)},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.1,  # the default waits 1 s between tasks
            "task_instance_heartbeat_timeout": 45,  # the defaults notice a dead task after 300 s
            "task_instance_heartbeat_timeout_detection_interval": 5,
            "orphaned_tasks_check_interval": 10,
        },
        "workers": {"min_heartbeat_interval": 1},  # the default reports a failure 5 s late
        "dag_processor": {
            "refresh_interval": 5,  # the default sees a new DAG file after 300 s
            "min_file_process_interval": 15,  # an edited spec shows after this long; shorter costs a core
        },
        "usage_data_collection": {"enabled": False},
    }
    if settings.statsd:
        host, _, port = settings.statsd.partition(":")
        sections["metrics"] = {"statsd_on": True, "statsd_host": host, "statsd_port": port or 8125}
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(
        {
            name: {key: str(value).replace("%", "%%") for key, value in section.items()}
            for name, section in sections.items()
        }
    )
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _remote_logging(settings: Settings) -> dict[str, object]:
    if not settings.logs:
        return {}
    return {
        "remote_logging": True,
        "remote_base_log_folder": settings.logs,
        "remote_log_conn_id": settings.aws_conn_id,  # empty: AWS's default chain
    }


def write_configuration(settings: Settings) -> Secrets:
    """Write `airflow.cfg` and the password file; return the secrets."""
    layout = Layout.of(settings)
    made = Secrets.load_or_make(layout)
    write_private(layout.airflow_passwords, json.dumps({USER: made.password}))
    write_private(layout.airflow_home / "airflow.cfg", configuration(settings, made))
    return made


def programs() -> list[Program]:
    """Return Airflow's four components as supervised programs."""
    return [
        Program(name=name, command=[sys.executable, "-m", "airflow", *arguments], directory=REPOSITORY)
        for name, arguments in COMPONENTS.items()
    ]


def migrate(settings: Settings, environment: dict[str, str]) -> None:
    """Bring Airflow's database to the installed version; a database that is there already costs one query.

    Raises:
        StackError: when the migration fails; the message has its last lines.
    """
    layout = Layout.of(settings)
    url = database_url(settings)
    stamp = layout.airflow_home / "migrated.json"
    version = metadata.version("apache-airflow")
    if stamp.exists() and json.loads(stamp.read_text()) == {"airflow": version, "revision": _revision(url)}:
        return
    log = layout.logs / "airflow-migrate.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, stdout=stream, stderr=stream, check=False)
    if done.returncode != 0:
        raise StackError(f"`airflow db migrate` failed with {done.returncode}; the end of {log}:\n{tail(log)}")
    write_private(stamp, json.dumps({"airflow": version, "revision": _revision(url)}))


def _revision(url: str) -> str | None:
    """Return the migration that the database is at, or None for an empty one."""
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(url)
    try:
        if not inspect(engine).has_table("alembic_version"):
            return None
        with engine.connect() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if revision is None else str(revision)
    finally:
        engine.dispose()
