"""Objects are written once, read back, and rewritten only when they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.backup.errors import BackupDamaged
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.store import FileBackend
from tests.unit.backup.saved import Saved


def test_equal_bytes_are_one_object(saved: Saved) -> None:
    version = saved.version(1)
    manifest = saved.back_up(version)
    paths = [file.path for file in manifest.files if file.path.endswith("weights.safetensors")]
    assert len(paths) == 2, "the bento's and the model's"
    assert len(saved.objects.names()) == len({file.sha256 for file in manifest.files}) == len(manifest.files) - 1


def test_a_second_backup_writes_only_what_changed(saved: Saved) -> None:
    version = saved.version(1)
    first = saved.back_up(version, 1000.0)
    before = {file.sha256: saved.object_path(file.sha256).stat().st_mtime_ns for file in first.files}
    second = saved.back_up(version, 2000.0)
    assert {file.path for file in saved.written} == {
        "databases/airflow.dump",
        "databases/ledger.dump",
        "models/docs.yaml",
    }
    kept = {file.sha256 for file in second.files} & set(before)
    assert kept
    assert all(saved.object_path(sha256).stat().st_mtime_ns == before[sha256] for sha256 in kept)


def test_a_damaged_object_is_found_by_the_next_backup_and_written_again(saved: Saved) -> None:
    version = saved.version(1)
    manifest = saved.back_up(version, 1000.0)
    damaged = next(file for file in manifest.files if file.path.endswith("weights.safetensors"))
    path = saved.object_path(damaged.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again = saved.back_up(version, 2000.0)
    assert damaged.sha256 in {file.sha256 for file in saved.written}
    saved.objects.check_all(again.files)


def test_an_object_that_does_not_read_back_is_no_object(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    version = saved.version(1)
    put_file = FileBackend.put_file

    def put_less(self: FileBackend, path: str, source: Path) -> None:
        put_file(self, path, source)
        target = self.local_path(path)
        target.write_bytes(target.read_bytes()[:-1])

    monkeypatch.setattr(FileBackend, "put_file", put_less)
    with pytest.raises(BackupDamaged, match="right after it was written"):
        saved.back_up(version)
    assert saved.catalog.ids() == []


def test_a_damaged_source_is_named_and_not_saved(saved: Saved) -> None:
    version = saved.version(1)
    (saved.artifact(version.model) / "model.txt").write_bytes(b"changed")
    with pytest.raises(ArtifactCorrupt, match=r"model\.txt differs from its digest"):
        saved.back_up(version)
    assert saved.catalog.ids() == []


def test_a_missing_source_is_named(saved: Saved) -> None:
    version = saved.version(1)
    (saved.artifact(version.model) / "model.txt").unlink()
    with pytest.raises(ArtifactMissing, match=r"model\.txt is missing"):
        saved.back_up(version)


def test_a_lost_source_does_no_harm_when_its_object_is_sound(saved: Saved) -> None:
    version = saved.version(1)
    saved.back_up(version, 1000.0)
    (saved.artifact(version.model) / "model.txt").unlink()
    saved.objects.check_all(saved.back_up(version, 2000.0).files)
