"""`release rollback` at a terminal: to a version, to what a backup holds, or refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import __main__ as cli
from pipelines import ledger
from pipelines.backup import held
from pipelines.errors import ReleaseRefused
from pipelines.ledger import Phase, Rollout
from pipelines.release import adapters, inline
from pipelines.settings import Settings, read_settings
from tests.unit.release.fakes import candidate
from tests.unit.release.world import ALL, World, world_with


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Return a world where version 2 replaced version 1, and let commands find it."""
    world = world_with("one", "two")

    def wait_for_end(rollout: Rollout, _settings: Settings) -> Rollout:
        world.settle(rollout.service)
        return world.read(rollout)

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_LEDGER", world.url)
    monkeypatch.setattr(adapters, "connect", lambda _: adapters.Adapters(world.fleet, world.router, world.probe))
    monkeypatch.setattr(inline, "wait_for_end", wait_for_end)
    return world


@pytest.fixture
def running(two: World) -> Rollout:
    """Bring version 3 to 5 %, where its next permit is missing."""
    opened = two.open(candidate("three", against="two"), "run-three", *ALL[: ALL.index("advance_050")])
    two.settle()
    return two.read(opened)


def rollback(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["python -m pipelines", "release", "rollback", "docs", *arguments])
    return cli.main()


def hold(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    monkeypatch.setattr(held, "version_held", lambda *_: version)


def serving(world: World) -> int | None:
    champion = ledger.champion(world.url, "docs")
    return None if champion is None else champion.number


def test_to_a_version(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rollback(monkeypatch, "--to", "1") == 0
    assert serving(two) == 1


def test_to_what_a_backup_holds(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 1)
    assert rollback(monkeypatch, "--backup", "b") == 0
    assert serving(two) == 1


def test_what_the_abort_brought_back_needs_no_second_rollout(
    two: World, running: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, 2)
    assert rollback(monkeypatch, "--backup", "b") == 0
    assert serving(two) == 2
    (latest,) = ledger.list_rollouts(two.url, "docs", 1)
    assert latest.id == running.id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--to", "9"], "docs has no version 9 to return to", id="unknown-version"),
        pytest.param(["--to", "1", "--backup", "b"], "name one of them", id="both"),
        pytest.param(["--backup", "b"], "backup b is damaged", id="damaged-backup"),
    ],
)
def test_what_cannot_be_returned_to_is_refused_before_anything_is_aborted(
    running: Rollout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    def refuse(*_: object) -> int:
        raise ReleaseRefused("backup b is damaged")

    monkeypatch.setattr(held, "version_held", refuse)
    assert rollback(monkeypatch, *arguments) == 20
    assert message in capsys.readouterr().err
    assert ledger.read_rollout(read_settings().ledger_url(), running.id).state.phase is Phase.STEP
