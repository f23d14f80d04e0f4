"""Which database is Airflow's: one answer for Airflow, for the backup of it, and for whether a server is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.stack import airflow, postgres
from pipelines.stack.programs import environment

AIRFLOWS_OWN = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
EXTERNAL = "postgresql+psycopg2://airflow:secret@db/airflow"


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AIRFLOWS_OWN, raising=False)
    monkeypatch.delenv("SLIPWAY_AIRFLOW_DB", raising=False)


def test_by_default_it_is_the_embedded_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ledger="postgresql://db/ledger")
    assert airflow.database_url(settings) == settings.airflow_db_url()
    assert f"host={settings.run_dir}" in settings.airflow_db_url()
    assert postgres.is_wanted(settings)


@pytest.mark.parametrize("named_by", ["SLIPWAY_AIRFLOW_DB", AIRFLOWS_OWN])
def test_whoever_names_it_tasks_and_airflow_are_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    monkeypatch.setenv(named_by, EXTERNAL)
    settings = Settings(home=tmp_path, ledger="postgresql://db/ledger")
    assert environment(settings)["SLIPWAY_AIRFLOW_DB"] == EXTERNAL
    (tmp_path / "airflow").mkdir()
    airflow.write_configuration(settings)
    assert f"sql_alchemy_conn = {EXTERNAL}" in (tmp_path / "airflow" / "airflow.cfg").read_text()
    assert not postgres.is_wanted(settings)


def test_a_work_step_never_sees_it() -> None:
    from pipelines.process import allowed_environment

    assert allowed_environment({"SLIPWAY_AIRFLOW_DB": EXTERNAL, "SLIPWAY_BACKUP": "s3://b"}) == {}
