"""A backup as the name of a version: only a sound one, and only the very version that was in production."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines import ledger
from pipelines.backup.errors import BackupDamaged, BackupMissing
from pipelines.backup.held import version_held
from pipelines.backup.manifest import BackupManifest, SavedVersion
from pipelines.errors import ReleaseRefused
from pipelines.ledger import Candidate, Outcome, Phase
from pipelines.settings import Settings
from tests.unit.backup.saved import Saved
from tests.unit.release.sqlite_ledger import new_ledger


@pytest.fixture
def settings(saved: Saved) -> Settings:
    """Return the settings of an installation whose ledger knows no version."""
    return Settings(home=saved.folder / "home", ledger=new_ledger(), backup=saved.store.url)


def promote(settings: Settings, version: SavedVersion) -> None:
    """Put a version into production, as the ledger sees it."""
    url = settings.ledger_url()
    artifacts = version.model_dump(include={"service", "bento", "model", "evaluation", "spec"})
    opened = ledger.open_rollout(url, Candidate(**artifacts, tag="docs:one"), run_id=f"run-{version.number}")
    staged = ledger.save(url, opened, replace(opened.state, phase=Phase.STAGE, generation=1), "stage")
    state = replace(staged.state, phase=Phase.PROMOTED, outcome=Outcome.PROMOTED)
    ledger.save(url, staged, state, "promoted", champion=staged.candidate)


@pytest.fixture
def backup(saved: Saved, settings: Settings) -> BackupManifest:
    """Make a backup of version 1, which is in production."""
    version = saved.version(1)
    promote(settings, version)
    return saved.back_up(version)


def test_the_version_in_production_is_the_one_that_is_meant(settings: Settings, backup: BackupManifest) -> None:
    assert version_held(settings, backup.id, "docs") == 1
    assert list((settings.resolved_home() / "scratch").iterdir()) == []


def test_a_damaged_backup_is_refused_by_its_name(settings: Settings, saved: Saved, backup: BackupManifest) -> None:
    model = next(file for file in backup.files if file.path.endswith("model.txt"))
    saved.object_path(model.sha256).write_bytes(b"changed")
    with pytest.raises(BackupDamaged, match=rf"backup {backup.id} is damaged: .*; nothing was done"):
        version_held(settings, backup.id, "docs")


def test_an_unknown_backup_is_refused(settings: Settings, backup: BackupManifest) -> None:
    with pytest.raises(BackupMissing, match="there is no 'b'"):
        version_held(settings, "b", "docs")


def test_a_backup_without_this_service_is_refused(settings: Settings, backup: BackupManifest) -> None:
    with pytest.raises(BackupMissing, match=r"holds no version of 'mail' in production; services in it: docs"):
        version_held(settings, backup.id, "mail")


def test_another_version_with_the_same_number_is_refused(settings: Settings, saved: Saved) -> None:
    promote(settings, saved.version(1))
    foreign = saved.back_up(saved.version(1))
    with pytest.raises(ReleaseRefused, match="which was never in production by this installation's ledger"):
        version_held(settings, foreign.id, "docs")
