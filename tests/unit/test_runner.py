"""Running a step as a process: what its status, its words and its receipt come to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipelines.errors import ExitCode, ReceiptMissing
from pipelines.runner import Ending, StepFailed, WorkStep, ending
from pipelines.settings import Settings
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store

INFO = RunInfo(model="m", run_id="manual__1", task_id="prepare", try_number=2)


class Scripted(WorkStep):
    """A work step whose process runs a line of Python instead."""

    def __init__(self, home: Path, script: str) -> None:
        super().__init__("prepare", "artifacts/spec/" + "0" * 64, INFO, Settings(home=home))
        self.script = script

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script]


def leave(home: Path, info: RunInfo = INFO, step: str = "prepare", status: int = 0) -> str:
    """Return a script that leaves a receipt where this try's is expected."""
    receipt = Receipt(step=step, run=info, key="k", started=1.0, seconds=0.1, result={"n": 1})
    path = home / "store" / INFO.receipt_uri
    return (
        f"from pathlib import Path; Path({str(path)!r}).write_bytes({receipt.encode()!r}); raise SystemExit({status})"
    )


def test_the_command_is_the_contract_of_a_step(tmp_path: Path) -> None:
    step = WorkStep("prepare", "artifacts/spec/s", INFO, Settings(home=tmp_path))
    assert step.command[1:] == [
        "-m", "pipelines", "step", "prepare", "--spec", "artifacts/spec/s",
        "--inputs", "runs/m/manual__1/prepare/2.inputs.json", "--result", "runs/m/manual__1/prepare/2.json",
    ]  # fmt: skip


def test_a_finished_step_returns_its_receipt_and_its_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    receipt = Scripted(tmp_path, "print('half way', flush=True); " + leave(tmp_path)).run({"a": 1}, lines.append)
    assert receipt.result == {"n": 1}
    assert lines == ["half way"]
    document = Store(f"file://{tmp_path}/store").read(INFO.inputs_uri)
    assert document is not None
    assert json.loads(document)["inputs"] == {"a": 1}


def test_a_missing_receipt_is_a_failure_although_the_status_is_0(tmp_path: Path) -> None:
    with pytest.raises(ReceiptMissing, match=r"prepare/2\.json is missing"):
        Scripted(tmp_path, "pass").run({}, print)


def test_a_receipt_that_was_there_before_does_not_count(tmp_path: Path) -> None:
    Scripted(tmp_path, leave(tmp_path)).run({}, print)
    with pytest.raises(ReceiptMissing, match="is missing"):
        Scripted(tmp_path, "pass").run({}, print)


@pytest.mark.parametrize(
    ("info", "step"),
    [
        pytest.param(INFO.model_copy(update={"try_number": 1}), "prepare", id="other-try"),
        pytest.param(INFO.model_copy(update={"run_id": "manual__0"}), "prepare", id="other-run"),
        pytest.param(INFO.model_copy(update={"model": "n"}), "prepare", id="other-model"),
        pytest.param(INFO, "validate", id="other-step"),
    ],
)
def test_a_receipt_of_another_try_is_refused(tmp_path: Path, info: RunInfo, step: str) -> None:
    with pytest.raises(ReceiptMissing, match="is of another try"):
        Scripted(tmp_path, leave(tmp_path, info, step)).run({}, print)


def test_a_failure_carries_the_error_of_the_step_and_no_stack(tmp_path: Path) -> None:
    script = "print('working'); print('error: data.source: no rows'); print('  give more'); raise SystemExit(20)"
    with pytest.raises(StepFailed, match=r"^prepare: refused \(exit status 20\): data.source: no rows\n  give more$"):
        Scripted(tmp_path, script).run({}, print)


def test_a_receipt_does_not_excuse_a_failed_process(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="failed unexpectedly"):
        Scripted(tmp_path, leave(tmp_path, status=1)).run({}, print)


@pytest.mark.parametrize(
    ("status", "meaning", "exit_code"),
    [
        (0, Ending.DONE, ExitCode.UNEXPECTED),
        (1, Ending.UNEXPECTED, ExitCode.UNEXPECTED),
        (10, Ending.RETRY, ExitCode.RETRY),
        (20, Ending.REFUSED, ExitCode.REFUSED),
        (130, Ending.INTERRUPTED, ExitCode.RETRY),
        (137, Ending.INTERRUPTED, ExitCode.RETRY),
        (143, Ending.INTERRUPTED, ExitCode.RETRY),
        (-9, Ending.INTERRUPTED, ExitCode.RETRY),
        (77, Ending.UNEXPECTED, ExitCode.UNEXPECTED),
    ],
)
def test_an_exit_status_has_one_meaning(status: int, meaning: Ending, exit_code: ExitCode) -> None:
    assert ending(status) is meaning
    assert StepFailed("prepare", status, "").exit_code is exit_code


def test_secrets_do_not_reach_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER", "postgresql://user:hunter2@host/ledger")
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "hunter2")
    seen: list[str] = []
    script = "from pathlib import Path; print(Path('/proc/self/environ').read_bytes()); " + leave(tmp_path)
    Scripted(tmp_path, script).run({}, seen.append)
    assert "SLIPWAY_STORE=file://" in seen[0]
    assert "hunter2" not in seen[0]
    assert "AIRFLOW" not in seen[0]
