"""The catalog of what services could return to follows the ledger, and its failure is nobody's."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from pipelines.formats.catalog import KnownBackup, Offers, catalog_path, read_catalog
from pipelines.ledger.backups import BackupRecord, forget_backups, record_backup
from pipelines.release import offers, orders
from pipelines.settings import Settings
from tests.unit.release.fakes import candidate
from tests.unit.release.world import World, world_with


@pytest.fixture
def world() -> World:
    """Return a world where version 2 replaced version 1."""
    return world_with("one", "two")


@pytest.fixture
def settings(world: World, tmp_path: Path) -> Settings:
    """Return an installation with the world's ledger."""
    return Settings(home=tmp_path / "home", ledger=world.url)


def known(settings: Settings) -> Offers:
    offers.refresh(settings)
    catalog = read_catalog(settings.resolved_home())
    assert catalog is not None
    return catalog.services["docs"]


def back_up(settings: Settings, name: str, version: int) -> None:
    record_backup(settings.ledger_url(), BackupRecord(name, "d" * 64, 1.0, "", 1, 1, 1), {"docs": version})


def test_versions_that_were_in_production_are_known_the_latest_first(settings: Settings, world: World) -> None:
    found = known(settings)
    assert found.serving == 2
    assert [version.number for version in found.versions] == [2, 1]
    latest, first = (version.since for version in found.versions)
    assert first < latest <= world.clock.now


def test_a_version_that_came_back_is_in_production_from_then_on(settings: Settings, world: World) -> None:
    world.clock.tick(3600)
    orders.return_to(world.url, "docs", 1, run_id="by-hand", person="ann")
    world.settle()
    found = known(settings)
    assert found.serving == 1
    assert [version.number for version in found.versions] == [1, 2]


def test_a_version_that_never_served_is_not_known(settings: Settings, world: World) -> None:
    world.open(candidate("three", against="two"), "run-three")
    world.settle()
    assert [version.number for version in known(settings).versions] == [2, 1]


def test_backups_are_known_while_retention_keeps_them(settings: Settings) -> None:
    back_up(settings, "old", 1)
    back_up(settings, "new", 2)
    assert known(settings).backups == (KnownBackup(name="new", version=2), KnownBackup(name="old", version=1))
    forget_backups(settings.ledger_url(), ["old"])
    assert known(settings).backups == (KnownBackup(name="new", version=2),)


def test_the_list_is_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "NUM_OFFERED", 1)
    back_up(settings, "old", 1)
    back_up(settings, "new", 2)
    found = known(settings)
    assert (len(found.versions), found.backups) == (1, (KnownBackup(name="new", version=2),))


def test_nothing_new_writes_nothing(settings: Settings) -> None:
    known(settings)
    before = catalog_path(settings.resolved_home()).stat()
    known(settings)
    assert catalog_path(settings.resolved_home()).stat() == before


def test_a_ledger_that_is_away_leaves_the_old_list(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    before = known(settings)
    offers.refresh(settings.model_copy(update={"ledger": "sqlite:////nowhere/ledger.db"}))
    assert "may show what is old: ledger: no answer" in caplog.text
    assert known(settings) == before


def test_a_home_that_cannot_be_written_harms_nobody(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.resolved_home().write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING):
        offers.refresh(settings)
    assert "may show what is old" in caplog.text


class OneRound(threading.Event):
    """Tells whoever waits to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def test_it_is_kept_fresh_until_told_to_stop(settings: Settings) -> None:
    offers.keep_fresh(settings, OneRound())
    assert read_catalog(settings.resolved_home()) is not None
