"""What a person sees of a failed task, and which numbers count."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from pipelines.stack.airflow_api import TaskInstance
from pipelines.stack.trigger import dag_of, log_lines, report
from pipelines.step import RunInfo
from pipelines.store import Store

START = datetime(2026, 11, 20, tzinfo=UTC)
TRAIN = TaskInstance(task_id="train", state="running", try_number=2, start=START, end=None)


def test_dag_is_named_after_the_model() -> None:
    assert dag_of("docs-gpt") == "lifecycle_docs_gpt"


def test_log_lines_are_the_messages_and_the_errors(tmp_path: Path) -> None:
    entries = [
        {"event": "step train: begin"},
        {"event": "Task failed", "error_detail": [{"exc_type": "GateRefused", "exc_value": "loss is nan"}]},
    ]
    (tmp_path / "log").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + "plain text\n")

    assert log_lines(tmp_path / "log") == ["step train: begin", "Task failed", "GateRefused: loss is nan", "plain text"]
    assert log_lines(tmp_path / "log", count=1) == ["plain text"]
    assert log_lines(tmp_path / "absent") == ["(no log was written)"]


def test_numbers_of_an_earlier_try_do_not_count(store: Store) -> None:
    path = RunInfo(model="m", run_id="r", task_id="train").progress_uri
    assert report(store, "m", "r", TRAIN) == {}

    store.put(path, json.dumps({"at": START.timestamp() - 1, "loss": 9}).encode())
    assert report(store, "m", "r", TRAIN) == {}

    store.put(path, json.dumps({"at": START.timestamp() + 1, "loss": 2}).encode())
    assert report(store, "m", "r", TRAIN)["loss"] == 2
