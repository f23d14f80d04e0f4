"""The commands: what they print, and what their exit status says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines import __main__ as cli
from pipelines.backup.manifest import BackupManifest
from pipelines.commands.backup import parse_moment
from pipelines.errors import BadInput
from pipelines.ledger import backups as ledger_backups
from pipelines.settings import read_settings
from tests.unit.backup.saved import Saved
from tests.unit.release.sqlite_ledger import new_ledger

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param("90m", NOW - 5400, id="minutes"),
        pytest.param("24h", NOW - 86_400, id="hours"),
        pytest.param("1.5d", NOW - 129_600, id="days"),
        pytest.param("1970-01-02T00:00:00Z", 86_400.0, id="moment"),
        pytest.param("1970-01-02", 86_400.0, id="a-day-in-utc"),
        pytest.param("1970-01-02T01:00:00+01:00", 86_400.0, id="with-a-zone"),
    ],
)
def test_an_age_or_a_moment(text: str, moment: float) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "24", "-1h", "24x"])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(BadInput, match="is neither an age"):
        parse_moment(text, NOW)


@pytest.fixture
def two(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> list[BackupManifest]:
    """Make two backups in the place that the environment names, with an empty ledger."""
    monkeypatch.setenv("SLIPWAY_HOME", str(saved.home))
    monkeypatch.setenv("SLIPWAY_BACKUP", saved.store.url)
    monkeypatch.setenv("SLIPWAY_LEDGER", new_ledger())
    monkeypatch.setattr(ledger_backups, "knows_schema", lambda revision: revision == "")
    return [saved.back_up(saved.version(number), 1000.0 * number) for number in (1, 2)]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["python -m pipelines", "backup", *arguments])
    return cli.main()


@pytest.mark.parametrize("command", ["create", "list", "verify", "restore"])
def test_every_command_has_help_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert call(monkeypatch, command, "--help") == 0
    assert "Example:" in capsys.readouterr().out


def test_the_list_has_the_newest_first_and_says_what_is_damaged(
    two: list[BackupManifest], saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.manifest_path(two[0].id).write_bytes(b"{}")
    assert call(monkeypatch, "list") == 0
    newest, oldest = capsys.readouterr().out.splitlines()
    assert newest.startswith(two[1].id)
    assert newest.endswith("docs v2  (test)")
    assert oldest.startswith(f"{two[0].id}  DAMAGED: ")
    assert call(monkeypatch, "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["champions"] == {"docs": 2}
    assert set(rows[1]) == {"id", "damage"}


def test_an_empty_list_says_so(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(saved.home))
    assert call(monkeypatch, "list") == 0
    assert capsys.readouterr().out == "no backups\n"
    assert not saved.home.exists()


def test_verify_names_the_damaged_and_goes_on(
    two: list[BackupManifest], saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "verify") == 0
    assert capsys.readouterr().out.count("sound    ") == 2

    model = next(file for file in two[0].files if file.path.endswith("model.txt"))
    saved.object_path(model.sha256).write_bytes(b"changed")
    assert call(monkeypatch, "verify") == 20
    printed = capsys.readouterr()
    assert f"sound    {two[1].id}" in printed.out
    assert f"DAMAGED  {two[0].id}" in printed.out
    assert "1 damaged or missing" in printed.err
    assert call(monkeypatch, "verify", two[1].id) == 0


def test_verify_misses_a_backup_that_the_ledger_knows(
    two: list[BackupManifest], saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ledger_backups.BackupRecord("gone", "d" * 64, 1.0, "", 1, 1, 1)
    ledger_backups.record_backup(read_settings().ledger_url(), record, {})
    assert call(monkeypatch, "verify") == 20
    assert "MISSING  gone: the ledger knows it" in capsys.readouterr().out


def test_verify_of_nothing_is_no_success(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(saved.home))
    monkeypatch.setenv("SLIPWAY_LEDGER", new_ledger())
    assert call(monkeypatch, "verify") == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--not-older-than", "1h"], "is older than asked", id="too-old"),
        pytest.param(["--not-older-than", "soon"], "is neither an age", id="no-moment"),
        pytest.param(["--backup", "b"], "there is no 'b'", id="unknown"),
    ],
)
def test_restore_refuses_in_one_plain_line(
    two: list[BackupManifest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert call(monkeypatch, "restore", *arguments) == 20
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not Path(os.environ["SLIPWAY_HOME"]).exists()


def test_restore_leaves_an_occupied_home_alone(
    two: list[BackupManifest], saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.home.mkdir()
    (saved.home / "id").write_text("x")
    assert call(monkeypatch, "restore") == 20
    assert "is not empty; move it away" in capsys.readouterr().err
    assert [path.name for path in saved.home.iterdir()] == ["id"]


def test_by_default_the_backups_lie_beside_the_home(tmp_path: Path) -> None:
    from pipelines.settings import Settings

    assert Settings(home=tmp_path / ".slipway").backup_url() == f"file://{tmp_path}/.slipway-backup"
    assert Settings(home=tmp_path, backup="s3://b/x").backup_url() == "s3://b/x"
