"""Retention: what is kept, and that removal never takes what a kept backup needs."""

from __future__ import annotations

import pytest

from pipelines.backup.manifest import BackupManifest
from pipelines.backup.retention import DAY_SECONDS, Retention, outdated, prune
from pipelines.spec import BackupConfig
from tests.unit.backup.saved import Saved

NOW = 100 * DAY_SECONDS


def made(days_ago: float) -> BackupManifest:
    created_at = NOW - days_ago * DAY_SECONDS
    return BackupManifest(created_at=created_at, reason="", files=(), versions=(), routes=(), databases=())


@pytest.mark.parametrize(
    ("keep_last", "keep_days", "kept"),
    [
        pytest.param(1, 0, [1], id="only-the-newest"),
        pytest.param(3, 0, [1, 5, 20], id="by-number"),
        pytest.param(1, 10, [1, 5], id="by-age"),
        pytest.param(3, 10, [1, 5, 20], id="either-keeps"),
        pytest.param(99, 0, [1, 5, 20, 50], id="all"),
    ],
)
def test_a_backup_is_kept_by_number_or_by_age(keep_last: int, keep_days: int, kept: list[int]) -> None:
    backups = [made(days) for days in (1, 5, 20, 50)]
    gone = outdated(reversed(backups), Retention(keep_last, keep_days), NOW)
    assert [backup for backup in backups if backup not in gone] == [made(days) for days in kept]


def test_the_most_careful_model_decides() -> None:
    configs = [BackupConfig(keep_last=2, keep_days=90), BackupConfig(keep_last=20, keep_days=1)]
    assert Retention.of(configs) == Retention(20, 90)
    assert Retention.of([]) == Retention.of([BackupConfig()])


def test_objects_go_only_with_the_last_backup_that_needs_them(saved: Saved) -> None:
    old, new = saved.version(1), saved.version(2)
    saved.back_up(old, NOW - 9 * DAY_SECONDS)
    shared = saved.back_up(old, NOW - 8 * DAY_SECONDS)
    newest = saved.back_up(new, NOW)
    assert len(prune(saved.catalog, saved.objects, Retention(2, 0), NOW)) == 1
    assert saved.catalog.ids() == [shared.id, newest.id]
    saved.objects.check_all([*shared.files, *newest.files])

    assert prune(saved.catalog, saved.objects, Retention(1, 0), NOW) == [shared.id]
    assert saved.objects.names() == {file.sha256 for file in newest.files}


def test_what_a_killed_backup_left_is_removed(saved: Saved) -> None:
    kept = saved.back_up(saved.version(1), NOW)
    saved.store.put("objects/ab/" + "ab" * 32, b"without a manifest")
    fragment = saved.folder / "backup" / "objects" / "ab" / ".half.0123"
    fragment.parent.mkdir(exist_ok=True)
    fragment.write_bytes(b"half")
    prune(saved.catalog, saved.objects, Retention(1, 0), NOW)
    assert saved.objects.names() == {file.sha256 for file in kept.files}
    assert not fragment.exists()


def test_a_manifest_goes_before_its_objects(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    saved.back_up(saved.version(1), NOW - 9 * DAY_SECONDS)
    kept = saved.back_up(saved.version(2), NOW)
    listed: list[list[str]] = []
    monkeypatch.setattr(saved.objects, "remove", lambda _: listed.append(saved.catalog.ids()))
    prune(saved.catalog, saved.objects, Retention(1, 0), NOW)
    assert listed
    assert all(ids == [kept.id] for ids in listed)


def test_while_a_manifest_cannot_be_read_nothing_is_removed(saved: Saved, caplog: pytest.LogCaptureFixture) -> None:
    damaged = saved.back_up(saved.version(1), NOW - 9 * DAY_SECONDS)
    saved.back_up(saved.version(2), NOW)
    saved.manifest_path(damaged.id).write_bytes(b"{}")
    before = saved.objects.names()
    assert prune(saved.catalog, saved.objects, Retention(1, 0), NOW) == []
    assert saved.objects.names() == before
    assert "stay until it is removed by hand" in caplog.text
