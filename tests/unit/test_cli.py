"""The command line: every command has help with an example, every mistake gets one plain error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import __main__ as cli

COMMANDS = [
    "step",
    "run",
    "trigger",
    "up",
    "down",
    "status",
    "controller",
    "verify",
    "gc",
    "spec validate",
    "spec schema",
    "plan",
    "train replay",
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["python -m pipelines", *arguments])
    return cli.main()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert call(monkeypatch, *command.split(), "--help") == 0
    assert "Example:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["stpe"], "No such command 'stpe'", id="unknown-command"),
        pytest.param(["step", "train"], "Missing option '--spec'", id="missing-option"),
        pytest.param(["spec", "validate", "nope.yaml"], "no such file", id="missing-spec"),
        pytest.param(["verify"], "name artifacts", id="nothing-to-verify"),
        pytest.param(["verify", "artifacts/x"], "is not artifacts/<kind>/<sha256>", id="not-a-uri"),
        pytest.param(
            ["step", "rollout", "--spec", "s", "--inputs", "i", "--result", "r"],
            "unknown step 'rollout'",
            id="not-a-work-step",
        ),
        pytest.param(
            ["step", "freeze", "--spec", "s", "--inputs", "i.json", "--result", "r"],
            "i.json does not exist",
            id="missing-inputs",
        ),
        pytest.param(["run", "--spec", "nope.yaml"], "no such file", id="run-missing-spec"),
        pytest.param(["plan", "nope.yaml"], "no such file", id="plan-missing-spec"),
        pytest.param(["train", "replay", "nope"], "has no run 'nope'", id="replay-unknown-run"),
        pytest.param(["trigger", "docs-gpt"], "there is no stack in", id="trigger-without-a-stack"),
    ],
)
def test_a_mistake_is_one_plain_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setattr("pipelines.process.die_with_parent", lambda: None)
    assert call(monkeypatch, *arguments) == 20
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_a_setting_of_the_wrong_type_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_AIRFLOW_PORT", "eighty")
    assert call(monkeypatch, "verify", "--all") == 20
    assert "SLIPWAY_AIRFLOW_PORT" in capsys.readouterr().err
