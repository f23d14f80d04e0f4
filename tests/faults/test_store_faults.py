"""A store that cannot be written: one plain error with the way out, and nothing half-published."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.settings import REPOSITORY
from pipelines.step import RunInfo, command, write_inputs
from pipelines.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")

INFO = RunInfo(model="m", run_id="r", task_id="freeze")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a file system of 64 kB that holds the inputs of a step."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    write_inputs(Store(f"file://{place}"), INFO, {})
    yield place
    subprocess.run(["/bin/umount", str(place)], check=True)


def mount(*arguments: str) -> None:
    subprocess.run(["/bin/mount", *arguments], check=True)


def freeze(tmp_path: Path, store: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "m.yaml").write_text("description: a model\n")
    return subprocess.run(
        [sys.executable, *command("freeze", str(tmp_path / "m.yaml"), INFO)],
        env={**os.environ, "SLIPWAY_HOME": str(tmp_path / "home"), "SLIPWAY_STORE": f"file://{store}"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def published(store: Path) -> list[Path]:
    return list(store.rglob("manifest.json")) + list(store.rglob("1.json"))


def test_the_control_publishes(tmp_path: Path, small_disk: Path) -> None:
    done = freeze(tmp_path, small_disk)
    assert done.returncode == 0, done.stderr
    assert len(published(small_disk)) == 2


def test_a_read_only_store_says_so(tmp_path: Path, small_disk: Path) -> None:
    mount("-o", "remount,ro", str(small_disk))
    refused = freeze(tmp_path, small_disk)
    assert refused.returncode == 10
    assert (
        "Read-only file system; the file system is read-only: mount it writable or set SLIPWAY_STORE" in refused.stderr
    )
    assert "Traceback" not in refused.stderr
    assert published(small_disk) == []


def test_a_full_store_says_so_and_a_retry_with_space_works(tmp_path: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"
    room = os.statvfs(small_disk)
    filler.write_bytes(b"x" * room.f_bavail * room.f_frsize)
    full = freeze(tmp_path, small_disk)
    assert full.returncode == 10
    assert "No space left on device; free space or move the store (SLIPWAY_STORE), then clear the task" in full.stderr
    assert published(small_disk) == []

    filler.unlink()
    assert freeze(tmp_path, small_disk).returncode == 0
    assert len(published(small_disk)) == 2
