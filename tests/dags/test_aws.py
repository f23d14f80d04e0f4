"""Credentials from an Airflow connection: steps get them as AWS_ variables, and nothing shows them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow_case import Lifecycle
from tests.live_s3 import KEY_ID, SECRETS

CONNECTION = {
    "conn_type": "aws",
    "login": KEY_ID,
    "password": SECRETS[0],
    "extra": {
        "aws_session_token": SECRETS[1],
        "region_name": "eu-west-1",
        "endpoint_url": "http://s3.example:9000",
    },
}
EXPECTED = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRETS[0],
    "AWS_SESSION_TOKEN": SECRETS[1],
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL_S3": "http://s3.example:9000",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without anything of AWS, and end so."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(CONNECTION))
    yield
    for name in set(os.environ) - set(before):
        if name.startswith("AWS_"):
            del os.environ[name]


def test_a_steps_process_has_the_connections_credentials_and_no_log_has(
    lifecycle: Lifecycle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SLIPWAY_AWS_CONN_ID", "lake")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the worker")
    lifecycle.tell("freeze", environment=str(tmp_path / "seen.json"), status=20, prints=["error: stop here"])
    run = lifecycle.run()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert {name: seen.get(name) for name in EXPECTED} == EXPECTED
    assert run.tasks["freeze"] == "failed"
    captured = capsys.readouterr()
    said = captured.out + captured.err + caplog.text
    assert "stop here" in said
    assert not any(secret in said for secret in SECRETS)


def test_without_a_connection_the_environment_stays_as_it_is(
    lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    lifecycle.tell("freeze", environment=str(tmp_path / "seen.json"), status=20)
    lifecycle.run()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["AWS_PROFILE"] == "mine"
    assert not EXPECTED.keys() & seen.keys()


PROBLEMS = [
    pytest.param("no-such", "there is no connection 'no-such'; add it", id="unknown"),
    pytest.param("empty", "connection 'empty' leads to no credentials; give it a key", id="empty"),
]


@pytest.mark.parametrize(("conn_id", "message"), PROBLEMS)
def test_a_connection_that_gives_nothing_stops_the_run_at_its_first_task(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, conn_id: str, message: str
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from slipway.aws import use_connection

    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "aws"}')
    with pytest.raises(AirflowFailException, match=message):
        use_connection(conn_id)
    monkeypatch.setenv("SLIPWAY_AWS_CONN_ID", conn_id)
    run = lifecycle.run()
    assert (run.tasks["freeze"], run.tries["freeze"]) == ("failed", 1)


def test_a_key_without_a_token_takes_the_workers_token_away(
    airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.aws import use_connection

    monkeypatch.setenv("AIRFLOW_CONN_KEY", '{"conn_type": "aws", "login": "A", "password": "B"}')
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the worker")
    use_connection("key")
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ.get("AWS_SESSION_TOKEN")) == ("A", None)
