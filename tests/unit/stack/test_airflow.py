"""Airflow's configuration: loopback only, secrets in private files, quick to notice what died."""

from __future__ import annotations

import configparser
import stat
from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.stack import airflow, programs
from pipelines.stack.layout import Layout


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with a home below a temporary folder."""
    settings = Settings(home=tmp_path / "home 100%", airflow_port=18099)
    Layout.of(settings).make()
    return settings


def test_configuration_reads_back_with_its_percent_signs(settings: Settings) -> None:
    airflow.write_configuration(settings)
    parser = configparser.ConfigParser()
    parser.read(Layout.of(settings).airflow_home / "airflow.cfg")

    assert parser["api"]["host"] == "127.0.0.1"
    assert parser["api"]["base_url"] == "http://127.0.0.1:18099"
    assert parser["core"]["execution_api_server_url"] == "http://127.0.0.1:18099/execution/"
    assert parser["core"]["simple_auth_manager_passwords_file"] == str(Layout.of(settings).airflow_passwords)
    assert parser["scheduler"].getint("task_instance_heartbeat_timeout") == 45


def test_logs_of_tasks_go_to_a_bucket_when_one_is_named(settings: Settings) -> None:
    bucket = settings.model_copy(update={"logs": "s3://lake/logs", "aws_conn_id": "lake"})
    parser = configparser.ConfigParser()
    parser.read_string(airflow.configuration(bucket, airflow.Secrets.load_or_make(Layout.of(settings))))
    assert parser["logging"].getboolean("remote_logging")
    assert parser["logging"]["remote_base_log_folder"] == "s3://lake/logs"
    assert parser["logging"]["remote_log_conn_id"] == "lake"

    parser = configparser.ConfigParser()
    parser.read_string(airflow.configuration(settings, airflow.Secrets.load(Layout.of(settings))))
    assert "remote_logging" not in parser["logging"]


def test_secrets_are_made_once_and_are_private(settings: Settings) -> None:
    first, second = airflow.write_configuration(settings), airflow.write_configuration(settings)

    assert first == second
    for path in Layout.of(settings).airflow_home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_programs_inherit_no_secret(settings: Settings) -> None:
    made = airflow.write_configuration(settings)

    environment = programs.environment(settings)

    assert not {made.password, made.jwt_secret, made.secret_key, made.fernet_key} & set(environment.values())
    assert environment["SLIPWAY_HOME"] == str(settings.home)
    assert environment["SLIPWAY_AIRFLOW_PORT"] == "18099"


def test_log_servers_stay_off_because_they_listen_on_every_interface() -> None:
    commands = {program.name: program.command for program in airflow.programs()}

    assert "--skip-serve-logs" in commands["airflow-scheduler"]
    assert "--skip-serve-logs" in commands["airflow-triggerer"]
