"""Makers and restorers of backups killed at every point, and targets that are full: nothing half-made is a backup."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipelines import ledger
from pipelines.backup import restore as restoring
from pipelines.backup.catalog import Catalog
from pipelines.backup.create import create_backup, open_store
from pipelines.backup.errors import BackupDamaged, RestoreRefused
from pipelines.backup.objects import Objects
from pipelines.errors import StoreUnavailable
from pipelines.ledger import backups as ledger_backups
from pipelines.settings import Settings
from pipelines.stack import postgres as stack_postgres
from pipelines.stack.layout import Layout
from pipelines.stack.restoring import StackDatabases
from pipelines.store import FileBackend
from tests.backup_case import SERVICE, Installation, data_folders
from tests.killer import Killer, is_killed
from tests.live_postgres import LivePostgres

MAX_POINTS = 60


@pytest.fixture
def installation(postgres: LivePostgres, tmp_path: Path) -> Installation:
    """Return an installation with a version in production."""
    made = Installation.make(postgres, tmp_path)
    made.promote("one")
    return made


def write_half(backend: FileBackend, path: str, source: Path) -> None:
    """Leave what a writer leaves that is killed in the middle."""
    temporary = backend.local_path(path).parent / f".{Path(path).name}.half"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def assert_all_sound(settings: Settings, scratch: Path) -> list[str]:
    store = open_store(settings)
    catalog = Catalog(store)
    for name in catalog.ids():
        restoring.verify(catalog.read(name), Objects(store, scratch), scratch)
    return catalog.ids()


def test_a_backup_killed_at_every_write_is_none_and_stops_no_later_one(installation: Installation) -> None:
    settings, scratch = installation.settings, installation.folder
    folder, pristine = Path(settings.backup_url().removeprefix("file://")), installation.folder / "pristine"
    before = create_backup(settings, "before").manifest.id
    folder.rename(pristine)
    installation.promote("two")

    def create(point: int) -> None:
        killer = Killer(point)
        killer.before(FileBackend, "put_file", write_half)
        killer.before(FileBackend, "create")
        killer.before(FileBackend, "put")
        create_backup(settings, f"killed at {point}")

    num_killed, killed = 0, True
    while killed:
        shutil.copytree(pristine, folder)
        killed = is_killed(partial(create, num_killed + 1))
        assert assert_all_sound(settings, scratch)[0] == before
        num_killed += killed
        assert num_killed < MAX_POINTS
        create_backup(settings, "after")
        assert len(assert_all_sound(settings, scratch)) == 2, "the spec keeps two"
        assert list((folder / "objects").rglob(".*")) == []
        shutil.rmtree(folder)
    assert num_killed >= 9, "lease, objects, manifest, note"


def test_the_control_a_manifest_before_its_objects_is_seen(installation: Installation) -> None:
    made = create_backup(installation.settings, "test").manifest
    Objects(open_store(installation.settings), installation.folder).remove(made.files[0].sha256)
    with pytest.raises(BackupDamaged, match="is missing"):
        assert_all_sound(installation.settings, installation.folder)


@pytest.fixture
def new_home(installation: Installation) -> Iterator[Settings]:
    """Return settings for a restore; what lies outside of the home is removed at the end."""
    create_backup(installation.settings, "test")
    settings = installation.elsewhere()
    yield settings
    for home in (settings.resolved_home(), Path(f"{settings.resolved_home()}.restoring")):
        stack_postgres.remove_data(Layout.of(settings.model_copy(update={"home": home})))


def restore(settings: Settings, scratch: Path) -> list[str]:
    store = open_store(settings)
    objects = Objects(store, scratch)
    manifest = restoring.choose(Catalog(store))
    restoring.verify(manifest, objects, scratch)
    return restoring.restore(manifest, objects, settings.resolved_home(), StackDatabases(settings))


def servers_of(settings: Settings) -> list[int]:
    """Return the database servers that work for a restore into this home."""
    sockets = str(
        Layout.of(settings.model_copy(update={"home": Path(f"{settings.resolved_home()}.restoring")})).run_dir
    )
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(sockets in part for part in process.info["cmdline"] or [])
    ]


def test_a_restore_killed_at_every_point_can_be_started_again(
    installation: Installation, new_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, scratch = new_home.resolved_home(), installation.folder
    made = data_folders(monkeypatch)

    def act(point: int) -> None:
        killer = Killer(point)
        killer.before(restoring, "check_complete")
        killer.before(restoring, "_copy_files")
        killer.before(restoring.artifacts, "verify")
        killer.before(restoring, "restore_dump")
        killer.before(restoring, "migrate")
        killer.before(ledger_backups, "settle")
        killer.before(restoring, "_put_in_place")
        restore(new_home, scratch)

    num_killed = 0
    while is_killed(partial(act, num_killed + 1)):
        num_killed += 1
        assert not home.exists()
        wait_until_gone(new_home)
        assert num_killed < MAX_POINTS
    assert num_killed >= 10
    assert not Path(f"{home}.restoring").exists()
    assert len(made()) == (1 if os.geteuid() == 0 else 0)
    server = LivePostgres(home)
    try:
        champion = ledger.champion(new_home.ledger_url(), SERVICE)
        assert champion is not None
        assert champion.tag == "docs:one"
    finally:
        server.remove()


def wait_until_gone(settings: Settings) -> None:
    for pid in servers_of(settings):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a file system of 128 kB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["/bin/umount", str(place)], check=True)


def test_a_full_target_says_so_and_a_retry_with_space_works(installation: Installation, small_disk: Path) -> None:
    settings = installation.settings.model_copy(update={"backup": f"file://{small_disk}/backup"})
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (120 << 10))
    with pytest.raises(StoreUnavailable, match=r"No space left on device; free space .*SLIPWAY_BACKUP"):
        create_backup(settings, "test")
    assert Catalog(open_store(settings)).ids() == []

    filler.unlink()
    create_backup(settings, "test")
    assert len(assert_all_sound(settings, installation.folder)) == 1


def test_a_disk_too_small_for_what_is_restored_is_refused_first(
    installation: Installation, new_home: Settings, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(b"x" * (120 << 10))
    settings = new_home.model_copy(update={"home": small_disk / "home"})
    with pytest.raises(RestoreRefused, match="bytes free, the backup"):
        restore(settings, installation.folder)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
