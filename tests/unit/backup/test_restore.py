"""Restoring: what is refused before the first byte is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.backup.errors import BackupDamaged, BackupMissing, RestoreRefused
from pipelines.backup.manifest import BackupManifest
from pipelines.errors import SlipwayError
from pipelines.ledger import backups as ledger_backups
from tests.unit.backup.saved import Saved


@pytest.fixture(autouse=True)
def any_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dumps that are only bytes pass for ones of this code's schema."""
    monkeypatch.setattr(ledger_backups, "knows_schema", lambda revision: revision == "")


def lose_object(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    saved.object_path(new.files[0].sha256).unlink()


def cut_object(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    path = saved.object_path(new.files[0].sha256)
    path.write_bytes(path.read_bytes()[:-1])


def swap_objects(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    ours, theirs = (
        saved.object_path(next(file.sha256 for file in each.files if file.path.endswith("weights.safetensors")))
        for each in (new, old)
    )
    content = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    theirs.write_bytes(content)


def exchange_manifests(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    saved.manifest_path(new.id).write_bytes(old.canonical())
    saved.manifest_path(old.id).write_bytes(new.canonical())


def pass_off_the_older(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    """Give the older manifest a name that is right about its bytes and wrong about its time."""
    saved.manifest_path(new.id).unlink()
    name = f"{new.id.partition('-')[0]}-{old.digest[:16]}"
    saved.manifest_path(name).write_bytes(old.canonical())
    saved.store.put("newest", f"{name}\n".encode())


def take_the_newest_away(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    saved.manifest_path(new.id).unlink()


def lose_the_note(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    saved.store.delete("newest")


def forge_without_a_file(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    """Publish a manifest that is right about itself and does not list a file of an artifact."""
    files = tuple(file for file in new.files if not file.path.endswith("/model.txt"))
    saved.catalog.publish(new.model_copy(update={"created_at": 3000.0, "files": files}))


def forge_with_another_artifact(saved: Saved, old: BackupManifest, new: BackupManifest) -> None:
    saved.catalog.publish(new.model_copy(update={"created_at": 3000.0, "versions": old.versions}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lose_object, "is missing", id="object-missing"),
        pytest.param(cut_object, "bytes, not", id="object-truncated"),
        pytest.param(swap_objects, "has other bytes than its name says", id="objects-swapped"),
        pytest.param(exchange_manifests, "other bytes than its name says", id="manifests-exchanged"),
        pytest.param(pass_off_the_older, "the manifest is that of", id="older-passed-off"),
        pytest.param(take_the_newest_away, "the newest one, .*, is missing", id="newest-taken-away"),
        pytest.param(lose_the_note, "the note of the newest one is damaged", id="note-lost"),
        pytest.param(forge_without_a_file, "is not listed as it should be", id="file-not-listed"),
        pytest.param(forge_with_another_artifact, "is not the artifact", id="artifact-not-listed"),
    ],
)
def test_a_damaged_backup_is_refused_before_the_first_byte(
    saved: Saved, damage: Callable[[Saved, BackupManifest, BackupManifest], None], message: str
) -> None:
    old, new = saved.back_up(saved.version(1), 1000.0), saved.back_up(saved.version(2), 2000.0)
    damage(saved, old, new)
    with pytest.raises(BackupDamaged, match=message):
        saved.restore()
    assert saved.nothing_was_restored()


def test_the_control_gets_as_far_as_the_databases(saved: Saved) -> None:
    saved.back_up(saved.version(1))
    with pytest.raises(KeyError, match="ledger"):
        saved.restore()
    assert saved.databases.opened_for == [saved.site]
    assert not saved.home.exists()
    assert list(saved.site.iterdir()) == [], "what was begun is removed"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"not_older_than": 2000.5}, "is older than asked", id="older-than-asked"),
        pytest.param({"backup": "20260101T000000.000Z-0123456789abcdef"}, "there is no", id="unknown"),
        pytest.param({"backup": "../../etc/passwd"}, "there is no", id="not-a-name"),
    ],
)
def test_what_was_not_asked_for_is_refused(saved: Saved, asked: dict[str, object], message: str) -> None:
    saved.back_up(saved.version(1), 2000.0)
    with pytest.raises(SlipwayError, match=message):
        saved.restore(**asked)  # type: ignore[arg-type]
    assert saved.nothing_was_restored()


def test_a_moment_that_is_just_met_is_accepted(saved: Saved) -> None:
    manifest = saved.back_up(saved.version(1), 2000.0)
    from pipelines.backup.restore import choose

    assert choose(saved.catalog, not_older_than=2000.0) == manifest


def test_without_a_backup_there_is_nothing_to_restore(saved: Saved) -> None:
    with pytest.raises(BackupMissing, match="check SLIPWAY_BACKUP"):
        saved.restore()


def test_an_older_one_can_be_named(saved: Saved) -> None:
    old = saved.back_up(saved.version(1), 1000.0)
    new = saved.back_up(saved.version(2), 2000.0)
    saved.manifest_path(new.id).unlink()
    with pytest.raises(KeyError, match="ledger"):
        saved.restore(old.id)


def test_a_backup_that_died_before_its_note_is_the_newest(saved: Saved) -> None:
    old = saved.back_up(saved.version(1), 1000.0)
    new = saved.back_up(saved.version(2), 2000.0)
    saved.store.put("newest", f"{old.id}\n".encode())
    assert saved.catalog.newest() == new.id


def test_an_occupied_home_is_refused(saved: Saved) -> None:
    saved.back_up(saved.version(1))
    saved.home.mkdir()
    (saved.home / "something").write_text("precious")
    with pytest.raises(RestoreRefused, match="is not empty"):
        saved.restore()
    assert (saved.home / "something").read_text() == "precious"
    assert saved.databases.opened_for == []


def test_a_schema_from_the_future_is_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    saved.back_up(saved.version(1))
    monkeypatch.setattr(ledger_backups, "knows_schema", lambda _: False)
    with pytest.raises(RestoreRefused, match="which this version of Slipway does not know"):
        saved.restore()
    assert saved.nothing_was_restored()


def test_two_restores_of_one_home_do_not_meet(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    saved.back_up(saved.version(1))
    refused: list[str] = []

    def try_another(home: Path) -> None:
        with pytest.raises(RestoreRefused, match="another restore") as error:
            saved.restore()
        refused.append(str(error.value))

    opened = saved.databases.opened
    monkeypatch.setattr(saved.databases, "opened", lambda home: (try_another(home), opened(home))[1])
    with pytest.raises(KeyError):
        saved.restore()
    assert len(refused) == 1
