"""Backups in a bucket: over a bad line, damaged at the server, and their makers and restorers killed.

Each protection is also taken away once, to see the fault that it keeps off.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipelines import __main__ as cli
from pipelines import ledger, verified
from pipelines.backup.catalog import NEWEST, Catalog
from pipelines.backup.create import create_backup, open_store
from pipelines.backup.errors import BackupDamaged, RestoreRefused
from pipelines.backup.objects import Objects
from pipelines.backup.restore import choose, restore, verify
from pipelines.errors import StoreRefused
from pipelines.ledger import backups as ledger_backups
from pipelines.settings import Settings
from pipelines.stack import postgres as stack_postgres
from pipelines.stack.layout import Layout
from pipelines.stack.restoring import StackDatabases
from pipelines.storage.parts import PART_BYTES
from pipelines.storage.s3 import S3Backend
from pipelines.store import Store
from tests.backup_case import SERVICE, Installation
from tests.faults.s3_case import OFTEN_BUSY, BehindEnvoy
from tests.faulty_line import Fault, FaultyLine
from tests.killer import Killer, is_killed
from tests.live_postgres import LivePostgres
from tests.live_s3 import LiveS3
from tests.unit.backup.saved import Saved


@dataclass(frozen=True)
class Bucket:
    """A bucket of backups, as its server sees it."""

    s3: LiveS3
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}/backup"

    def objects(self) -> dict[str, bytes]:
        """Return everything that lies in it."""
        return {key.removeprefix("backup/"): data for key, data in self.s3.objects(self.name).items()}

    def put(self, path: str, data: bytes) -> None:
        """Write behind the back of whoever keeps backups there."""
        self.s3.put(self.name, f"backup/{path}", data)

    def delete(self, path: str) -> None:
        """Delete behind their back."""
        self.s3.client.delete_object(Bucket=self.name, Key=f"backup/{path}")

    def keep_versions(self) -> None:
        """Turn versioning on."""
        self.s3.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def num_versions(self, folder: str) -> dict[str, int]:
        """Return how often each object of a folder was written."""
        pages = self.s3.client.get_paginator("list_object_versions").paginate(
            Bucket=self.name, Prefix=f"backup/{folder}"
        )
        keys = [found["Key"] for page in pages for found in page.get("Versions", ())]
        return {key: keys.count(key) for key in keys}


@pytest.fixture
def bucket(s3: LiveS3, s3_environment: None) -> Bucket:
    """Return an empty bucket."""
    return Bucket(s3, s3.make_bucket())


@pytest.fixture
def saved(bucket: Bucket, no_pauses: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Return an installation without databases, whose backups go to the bucket."""
    monkeypatch.setattr(ledger_backups, "knows_schema", lambda revision: revision == "")
    return Saved(tmp_path / "installation", bucket.url)


def get_as_far_as_the_databases(saved: Saved) -> None:
    """Restore a sound backup; its dumps are only bytes, and nobody takes them."""
    with pytest.raises(KeyError, match="ledger"):
        saved.restore()
    assert saved.databases.opened_for == [saved.site]


def flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def test_a_flipped_bit_in_any_object_is_found_before_a_byte_is_restored(bucket: Bucket, saved: Saved) -> None:
    saved.back_up(saved.version(1, size_bytes=PART_BYTES + 1000))
    objects = bucket.objects()
    assert len(objects) >= 12, "files and manifests of four artifacts, dumps, spec, manifest, note"
    chance = random.Random(0)  # noqa: S311 - a seeded choice, no secret
    for path, data in objects.items():
        bucket.put(path, flipped(data, chance))
        with pytest.raises(BackupDamaged):
            saved.restore()
        assert saved.nothing_was_restored(), path
        bucket.put(path, data)
    get_as_far_as_the_databases(saved)


def test_control_without_verifying_first_a_restore_begins_to_write(bucket: Bucket, saved: Saved) -> None:
    manifest = saved.back_up(saved.version(1))
    last = manifest.files[-1]
    bucket.put(f"objects/{last.sha256[:2]}/{last.sha256}", b"other")
    with pytest.raises(BackupDamaged, match="has other bytes than its name says"):
        restore(manifest, saved.objects, saved.home, saved.databases)
    assert saved.site.exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        pytest.param("objects/", "is missing; take another backup", id="object"),
        pytest.param("backups/", "the newest one, .*, is missing; name another", id="manifest"),
        pytest.param(NEWEST, "the note of the newest one is damaged; name one", id="note"),
    ],
)
def test_what_was_deleted_is_missed_before_a_byte_is_restored(
    bucket: Bucket, saved: Saved, lost: str, message: str
) -> None:
    saved.back_up(saved.version(1), 1000.0)
    saved.back_up(saved.version(2), 2000.0)
    bucket.delete(max(path for path in bucket.objects() if path.startswith(lost)))
    with pytest.raises(BackupDamaged, match=message):
        verify_all(saved)
    assert saved.nothing_was_restored()


def verify_all(saved: Saved) -> None:
    """Verify the newest backup, then all others."""
    for name in (saved.catalog.newest(), *saved.catalog.ids()):
        verify(saved.catalog.read(name), saved.objects, saved.scratch)


def test_a_backup_that_is_older_than_asked_is_refused(saved: Saved) -> None:
    saved.back_up(saved.version(1), 2000.0)
    with pytest.raises(RestoreRefused, match="is older than asked"):
        saved.restore(not_older_than=2000.5)
    assert saved.nothing_was_restored()


DAMAGED = (None, Fault.FLIP_GOT, None, Fault.FLIP_GOT, None, Fault.CUT_GOT, Fault.SHORTEN_GOT, Fault.FLIP_GOT)
"""List of the backups, note, note, manifest, ..."""


def test_what_only_the_line_damages_passes_for_no_damage(line: FaultyLine, saved: Saved) -> None:
    saved.back_up(saved.version(1))
    line.suffer("GET", *DAMAGED)
    get_as_far_as_the_databases(saved)
    assert not line.faults


def test_control_read_once_a_sound_backup_passes_for_damaged(
    line: FaultyLine, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.back_up(saved.version(1))
    monkeypatch.setattr(verified, "_READINGS", 1)
    line.suffer("GET", *DAMAGED)
    with pytest.raises(BackupDamaged, match="has other bytes than its name says"):
        saved.restore()
    assert saved.nothing_was_restored()


def test_control_without_its_digest_a_damaged_object_is_restored(
    bucket: Bucket, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = saved.back_up(saved.version(1))
    spec = next(file for file in manifest.files if file.path.startswith("models/"))
    bucket.put(f"objects/{spec.sha256[:2]}/{spec.sha256}", b"other")
    monkeypatch.setattr(verified, "_until", lambda digest, path, sha256: bool(digest()))
    target = saved.folder / "copy"
    saved.objects.fetch(spec, target)
    assert target.read_bytes() == b"other"


def test_what_is_damaged_on_its_way_into_the_bucket_is_written_again(
    line: FaultyLine, bucket: Bucket, saved: Saved
) -> None:
    version = saved.version(1, size_bytes=PART_BYTES + 1000)
    line.suffer("PUT", Fault.FLIP_SENT, Fault.SHORTEN_SENT, Fault.CUT_SENT, None, Fault.FLIP_SENT)
    saved.back_up(version)
    assert not line.faults
    verify_all(saved)


REFUSALS = [
    pytest.param(("DELETE", 403, "AccessDenied"), "cannot delete .* no permission for s3:DeleteObject", id="right"),
    pytest.param(("PUT", 403, "SignatureDoesNotMatch"), "cannot create .* credentials are wrong", id="credentials"),
    pytest.param(("PUT", 404, "NoSuchBucket"), "cannot create .* the bucket does not exist", id="bucket"),
    pytest.param(("PUT", 403, "RequestTimeTooSkewed"), "cannot create .* machine's clock is wrong", id="clock"),
]


@pytest.mark.parametrize(("refusal", "message"), REFUSALS)
def test_a_bucket_that_cannot_be_used_is_told_before_anything_is_saved(
    line: FaultyLine, bucket: Bucket, tmp_path: Path, refusal: tuple[str, int, str], message: str
) -> None:
    method, status, code = refusal
    line.refuse = lambda request: (status, code, "") if request.method == method else None
    with pytest.raises(StoreRefused, match=f"^store: {message}.* set SLIPWAY_BACKUP elsewhere"):
        create_backup(Settings(home=tmp_path / "home", backup=bucket.url), "test")
    line.refuse = lambda _: None
    assert Catalog(Store(bucket.url)).ids() == []
    assert Objects(Store(bucket.url), tmp_path).names() == set()


@pytest.fixture
def installation(postgres: LivePostgres, bucket: Bucket, no_pauses: None, tmp_path: Path) -> Installation:
    """Return an installation with a version in production; backups go to a bucket that keeps versions."""
    bucket.keep_versions()
    made = Installation.make(postgres, tmp_path, backup=bucket.url)
    made.promote("one")
    return made


@dataclass(frozen=True)
class Commands:
    """`python -m pipelines backup`, for one installation."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def at(self, settings: Settings) -> None:
        """Work for the installation with these settings from now on."""
        for name in ("home", "backup", "ledger", "airflow_db", "models_dir"):
            value = str(getattr(settings, name))
            self.monkeypatch.setenv(f"SLIPWAY_{name.upper()}", value)

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Return exit status and what was printed."""
        self.monkeypatch.setattr("sys.argv", ["python -m pipelines", "backup", *arguments])
        status = cli.main()
        captured = self.capsys.readouterr()
        return status, captured.out + captured.err


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Return the commands, for no installation yet."""
    return Commands(monkeypatch, capsys)


@pytest.fixture
def new_home(installation: Installation) -> Iterator[Settings]:
    """Return the settings of an empty home; what a restore leaves outside of it is removed at the end."""
    settings = installation.elsewhere()
    yield settings
    for home in (settings.resolved_home(), Path(f"{settings.resolved_home()}.restoring")):
        stack_postgres.remove_data(Layout.of(settings.model_copy(update={"home": home})))


@pytest.mark.slow
def test_a_whole_life_on_a_server_that_refuses_3_of_10_requests(
    envoy: BehindEnvoy, bucket: Bucket, installation: Installation, new_home: Settings, commands: Commands
) -> None:
    """Create, add, forget, list, verify, refuse, restore: 360 requests.

    After 8 refusals in a row a request is given up: that would end one such life in 40, so more attempts are set.
    """
    commands.monkeypatch.setenv("AWS_MAX_ATTEMPTS", "16")
    with envoy(OFTEN_BUSY):
        commands.at(installation.settings)
        assert_three_backups_of_which_two_are_kept(bucket, installation, commands)
        assert_damage_is_found(bucket, new_home, commands)
        assert_restored(new_home, commands)


def assert_three_backups_of_which_two_are_kept(bucket: Bucket, installation: Installation, commands: Commands) -> None:
    """The spec keeps two."""
    names = []
    for word in ("", "two", "three"):
        if word:
            installation.promote(word)
        status, said = commands("create", "--reason", f"with {word}")
        assert status == 0, said
        names.append(Catalog(Store(bucket.url)).newest())
    assert f"removed {names[0]}: retention does not keep it" in said
    status, listed = commands("list", "--json")
    assert [row["id"] for row in json.loads(listed)] == [names[2], names[1]]
    assert set(bucket.num_versions("objects/").values()) == {1}, "nothing that was there was written again"
    status, said = commands("verify")
    assert (status, said.count("sound ")) == (0, 2)


def assert_damage_is_found(bucket: Bucket, new_home: Settings, commands: Commands) -> None:
    commands.at(new_home)
    status, said = commands("restore", "--not-older-than", "2100-01-01")
    assert (status, "is older than asked" in said) == (20, True)
    catalog = Catalog(Store(bucket.url))
    file = next(file for file in catalog.read(catalog.newest()).files if file.path.endswith("bento.txt"))
    path = f"objects/{file.sha256[:2]}/{file.sha256}"
    data = bucket.objects()[path]
    bucket.put(path, b"x" + data[1:])
    for arguments in (("verify",), ("restore",)):
        status, said = commands(*arguments)
        assert (status, file.sha256[:12] in said) == (20, True)
    assert not new_home.resolved_home().exists()
    assert not Path(f"{new_home.resolved_home()}.restoring").exists()
    bucket.put(path, data)


def assert_restored(new_home: Settings, commands: Commands) -> None:
    """A first restore is killed in the middle."""

    def restore_and_die() -> None:
        Killer(3).before(Objects, "fetch")
        store = open_store(new_home)
        objects = Objects(store, new_home.resolved_home().parent)
        restore(choose(Catalog(store)), objects, new_home.resolved_home(), StackDatabases(new_home))

    assert is_killed(restore_and_die)
    assert not new_home.resolved_home().exists()
    status, said = commands("restore", "--not-older-than", "24h")
    assert (status, f"services {SERVICE}" in said) == (0, True), said
    server = LivePostgres(new_home.resolved_home())
    try:
        champion = ledger.champion(new_home.ledger_url(), SERVICE)
        assert champion is not None
        assert champion.tag == f"{SERVICE}:three"
    finally:
        server.remove()


KILLS: dict[str, Callable[[Killer], None]] = {
    "before the first object": lambda killer: killer.before(S3Backend, "put_file"),
    "before the manifest": lambda killer: killer.before(Catalog, "publish"),
    "before the note": lambda killer: killer.before(S3Backend, "put"),
}


@pytest.mark.slow
def test_a_maker_of_backups_that_is_killed_stops_no_later_one(bucket: Bucket, installation: Installation) -> None:
    settings, scratch = installation.settings, installation.folder
    before = create_backup(settings, "before").manifest.id
    installation.promote("two")
    for point, prepare in KILLS.items():

        def create_and_die(prepare: Callable[[Killer], None]) -> None:
            prepare(Killer(1))
            create_backup(settings, "killed")

        assert is_killed(partial(create_and_die, prepare)), point
        assert_all_sound(bucket.url, scratch)
    names = assert_all_sound(bucket.url, scratch)
    assert (names[0], len(names)) == (before, 2), "killed before its note, a backup is whole"
    after = create_backup(settings, "after").manifest.id
    assert assert_all_sound(bucket.url, scratch)[-1] == after
    needed = {file.sha256 for name in names[1:] for file in Catalog(Store(bucket.url)).read(name).files}
    assert needed <= Objects(Store(bucket.url), scratch).names()


def assert_all_sound(url: str, scratch: Path) -> list[str]:
    catalog, objects = Catalog(Store(url)), Objects(Store(url), scratch)
    for name in catalog.ids():
        verify(catalog.read(name), objects, scratch)
    assert catalog.newest() == catalog.ids()[-1]
    return catalog.ids()
