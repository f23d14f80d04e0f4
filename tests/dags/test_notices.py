"""Who is told of what: failures to people, numbers to servers; and that telling never breaks a task."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from tests.airflow_case import ROOT, Lifecycle

ENDED = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)


class Listening:
    """An HTTP server that remembers what it was sent."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        remember = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                remember.append((self.path, self.rfile.read(length)))
                self.send_response(status)
                self.end_headers()

            do_PUT = do_POST  # noqa: N815 - the server's own names

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listening() -> Iterator[Listening]:
    server = Listening()
    yield server
    server.server.shutdown()
    server.server.server_close()


def task_instance(**changes: Any) -> SimpleNamespace:
    facts: dict[str, Any] = {
        "dag_id": "lifecycle_tiny",
        "task_id": "rollout.stage",
        "run_id": "manual__1",
        "try_number": 2,
        "log_url": "http://127.0.0.1:8080/log",
        "task": SimpleNamespace(model="tiny"),
        "start_date": datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC),
        "end_date": ENDED,
    }
    return SimpleNamespace(**(facts | changes))


def context() -> Any:
    ti = task_instance()
    return {"ti": ti, "task": ti.task, "exception": ValueError("loss is nan")}


def test_a_failure_is_one_line_and_a_post(
    lifecycle: Lifecycle, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway import notifier

    lines: list[str] = []
    monkeypatch.setenv("SLIPWAY_WEBHOOK", f"http://{listening.address}/hook")
    monkeypatch.setattr(notifier.logger, "error", lambda line, *values: lines.append(line % values))
    notifier.FailureNotifier().notify(context())
    facts = {
        "model": "tiny",
        "run": "manual__1",
        "step": "rollout.stage",
        "try": 2,
        "error": "loss is nan",
        "log": "http://127.0.0.1:8080/log",
    }
    assert [(path, json.loads(body)) for path, body in listening.bodies] == [("/hook", facts)]
    assert len(lines) == 1
    assert lines[0].startswith(
        'task failed: model="tiny" run="manual__1" step="rollout.stage" try=2 error="loss is nan"'
    )


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/closed", "no-url", "http://[::1"])
def test_a_webhook_that_does_not_answer_is_only_logged(
    lifecycle: Lifecycle, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.notifier import FailureNotifier

    monkeypatch.setenv("SLIPWAY_WEBHOOK", url)
    FailureNotifier().notify(context())
    assert "did not take the notice" in caplog.text


def test_a_webhook_that_refuses_is_logged(
    lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.notifier import post

    refusing = Listening(status=500)
    try:
        post(f"http://{refusing.address}/hook", {})
    finally:
        refusing.server.shutdown()
        refusing.server.server_close()
    assert "500" in caplog.text


def test_numbers_of_a_task_are_pushed_to_every_configured_server(
    lifecycle: Lifecycle, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway import listener

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        monkeypatch.setenv("SLIPWAY_STATSD", f"127.0.0.1:{statsd.getsockname()[1]}")
        monkeypatch.setenv("SLIPWAY_PUSHGATEWAY", listening.address)
        listener.on_task_instance_success(None, task_instance())
        received = {statsd.recv(1024).decode() for _ in range(2)}
    prefix = "slipway.tiny.rollout_stage.success"
    assert received == {f"{prefix}.duration:5000.000000|ms", f"{prefix}:1|c"}
    ((path, body),) = listening.bodies
    assert path == "/metrics/job/slipway/model/tiny/step/rollout.stage"
    assert 'slipway_task_duration_seconds{state="success"} 5.0' in body.decode()


def test_a_server_that_is_away_breaks_nothing_and_the_other_still_gets_its_numbers(
    lifecycle: Lifecycle, listening: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from slipway import listener

    monkeypatch.setenv("SLIPWAY_STATSD", "no-such-host.invalid:8125")
    monkeypatch.setenv("SLIPWAY_PUSHGATEWAY", listening.address)
    listener.on_task_instance_failed(None, task_instance(), ValueError())
    assert len(listening.bodies) == 1
    assert "were not pushed" in caplog.text


def test_a_task_of_another_dag_is_none_of_our_business(
    lifecycle: Lifecycle, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway import listener

    monkeypatch.setenv("SLIPWAY_PUSHGATEWAY", listening.address)
    listener.on_task_instance_skipped(None, task_instance(dag_id="other"))
    assert listening.bodies == []


def test_a_listener_survives_what_it_does_not_expect(lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture) -> None:
    from slipway import listener

    listener.on_task_instance_success(None, object())
    assert "were not pushed" in caplog.text


def test_airflow_loads_the_plugin_once_and_nothing_else_of_the_folder(lifecycle: Lifecycle) -> None:
    script = """
import json
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
mine = [plugin for plugin in plugins if plugin.__module__.startswith("slipway")]
print(json.dumps([[plugin.name for plugin in mine], errors, [each.__name__ for each in mine[0].listeners]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == [["slipway"], {}, ["slipway.listener"]]
