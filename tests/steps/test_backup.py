"""Backup and restore with real PostgreSQL and, for the stores, folders and S3."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines import artifacts, ledger
from pipelines.backup import dumps
from pipelines.backup.catalog import Catalog
from pipelines.backup.create import Created, create_backup, open_store
from pipelines.backup.errors import BackupDamaged, DatabaseAway, DumpFailed, RestoreRefused
from pipelines.backup.manifest import BackupManifest
from pipelines.backup.objects import Objects
from pipelines.backup.restore import choose, restore, verify
from pipelines.errors import ArtifactMissing, BadInput, LedgerUnavailable
from pipelines.ledger import Outcome, Phase
from pipelines.ledger.backups import list_backups
from pipelines.settings import Settings
from pipelines.stack import postgres as stack_postgres
from pipelines.stack.layout import Layout
from pipelines.stack.restoring import StackDatabases
from pipelines.step import RunInfo
from pipelines.steps import backup
from pipelines.store import Store
from tests.backup_case import SERVICE, Installation, data_folders, execute
from tests.live_postgres import LivePostgres

OLD_POSTGRES = Path("/usr/lib/postgresql/15/bin")
INFO = RunInfo(model=SERVICE, run_id="run-1", task_id="backup")


@pytest.fixture
def installation(postgres: LivePostgres, tmp_path: Path) -> Installation:
    """Return an installation without a version."""
    return Installation.make(postgres, tmp_path)


@pytest.fixture
def bring_back(tmp_path: Path) -> Iterator[Callable[..., Restored]]:
    """Restore as the command does; what lies outside of the homes is removed at the end."""
    homes: list[Settings] = []

    def act(settings: Settings, name: str = "") -> Restored:
        homes.append(settings)
        return bring_back_to(settings, name, tmp_path)

    yield act
    for settings in homes:
        stack_postgres.remove_data(Layout.of(settings))


class Restored:
    """A restored home, with its own database server running for a block."""

    def __init__(self, settings: Settings, services: list[str]) -> None:
        self.settings = settings
        self.services = services

    @property
    def home(self) -> Path:
        return self.settings.resolved_home()

    def __enter__(self) -> Settings:
        self._server = LivePostgres(self.home)
        return self.settings

    def __exit__(self, *_: object) -> None:
        self._server.remove()


def bring_back_to(settings: Settings, name: str, scratch: Path) -> Restored:
    store = open_store(settings)
    objects = Objects(store, scratch)
    manifest = choose(Catalog(store), name)
    verify(manifest, objects, scratch)
    home = settings.resolved_home()
    return Restored(settings, restore(manifest, objects, home, StackDatabases(settings), settings.store))


def test_what_serves_comes_back_in_an_empty_home(
    installation: Installation, bring_back: Callable[..., Restored]
) -> None:
    first, second = installation.promote("one"), installation.promote("two")
    ledger.claim_port(installation.settings.ledger_url(), SERVICE, [18100])
    created = create_backup(installation.settings, "test")
    chain = ledger.events(installation.settings.ledger_url(), SERVICE)
    shutil.rmtree(installation.settings.resolved_home())

    restored = bring_back(installation.elsewhere())
    assert restored.services == [SERVICE]
    assert (restored.home / "models" / "docs.yaml").read_bytes() == (
        installation.settings.models_dir / "docs.yaml"
    ).read_bytes()
    assert not list(restored.home.parent.glob("*.restoring"))
    assert not (restored.home / "databases").exists()
    store = Store(restored.settings.store_url())
    for version in (first.candidate, second.candidate):
        for ref in (version.bento, version.model, version.evaluation, version.spec):
            artifacts.verify(store, ref)
    with restored as settings:
        service = ledger.read_service(settings.ledger_url(), SERVICE)
        assert service is not None
        assert (service.champion, service.port) == (second.candidate, 18100)
        events = ledger.events(settings.ledger_url(), SERVICE)
        assert events[: len(chain) - 1] == chain[:-1], "all but the event of the backup itself, which came later"
        assert (events[-1].kind, events[-1].facts) == ("restored", {"backup": created.manifest.id})
        assert execute(settings.airflow_db_url(), "SELECT run_id FROM dag_run") == [("first",)]


def test_a_first_release_saves_what_there_is_and_says_so(
    installation: Installation, bring_back: Callable[..., Restored]
) -> None:
    result = backup.run(backup.Inputs(run=INFO), installation.settings)
    assert "no version, for none is in production; ledger, Airflow's database, 1 model specs" in result.detail
    assert (result.num_files, result.num_written) == (3, 3)
    restored = bring_back(installation.elsewhere())
    assert restored.services == []
    with restored as settings:
        assert execute(settings.airflow_db_url(), "SELECT run_id FROM dag_run") == [("first",)]


@pytest.mark.parametrize(
    ("phase", "serving", "ended"),
    [
        pytest.param(Phase.STAGE, "one", (Phase.ROLLED_BACK, Outcome.ABORTED), id="staged"),
        pytest.param(Phase.STEP, "one", (Phase.ROLLED_BACK, Outcome.ABORTED), id="canary"),
        pytest.param(Phase.ROLLING_BACK, "one", (Phase.ROLLED_BACK, Outcome.ABORTED), id="rolling-back"),
        pytest.param(Phase.DRAIN_OLD, "two", (Phase.PROMOTED, Outcome.PROMOTED), id="draining"),
    ],
)
def test_a_rollout_under_way_comes_back_ended_and_only_a_champion_has_a_route(
    installation: Installation,
    bring_back: Callable[..., Restored],
    phase: Phase,
    serving: str,
    ended: tuple[Phase, Outcome],
) -> None:
    installation.promote("one")
    rollout = installation.move(installation.open("two"), phase, canary_bp=2500)
    if serving == "two":
        url = installation.settings.ledger_url()
        ledger.save(url, rollout, replace(rollout.state, is_done=True), "drained", champion=rollout.candidate)
    manifest = create_backup(installation.settings, "test").manifest
    assert [route.champion for route in manifest.routes] == [1 if serving == "one" else 2]

    with bring_back(installation.elsewhere()) as settings:
        after = ledger.snapshot(settings.ledger_url(), SERVICE)
        assert after is not None
        assert after.rollout is None, "nothing is under way"
        assert after.service.champion is not None
        assert after.service.champion.tag == f"docs:{serving}"
        state = ledger.read_rollout(settings.ledger_url(), rollout.id).state
        assert ((state.phase, state.outcome), state.canary_bp) == (ended, 0)
        assert manifest.id in state.detail
        assert ledger.verify_chain(settings.ledger_url(), SERVICE) > 0


def test_the_ledger_and_its_dump_are_of_one_moment(
    installation: Installation, bring_back: Callable[..., Restored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion between reading the champion and dumping the ledger is in neither."""
    installation.promote("one")
    dump = dumps.dump

    def promote_first(name: str, *arguments: object) -> object:
        if name == "ledger":
            installation.promote("two")
        return dump(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pipelines.backup.create.dump", promote_first)
    manifest = create_backup(installation.settings, "test").manifest
    assert [version.number for version in manifest.versions] == [1]
    with bring_back(installation.elsewhere()) as settings:
        champion = ledger.champion(settings.ledger_url(), SERVICE)
        assert champion is not None
        assert champion.number == 1


def test_databases_that_are_named_by_url_are_filled_only_when_empty(
    installation: Installation, bring_back: Callable[..., Restored], postgres: LivePostgres
) -> None:
    installation.promote("one")
    create_backup(installation.settings, "test")
    occupied = installation.elsewhere(
        ledger=postgres.create_database(f"{installation.folder.name}_l"), airflow_db=installation.settings.airflow_db
    )
    with pytest.raises(RestoreRefused, match=r"airflow database .* has 2 tables.*SLIPWAY_AIRFLOW_DB"):
        bring_back(occupied)
    assert not occupied.resolved_home().exists()
    assert execute(occupied.ledger, "SELECT count(*) FROM information_schema.tables WHERE table_schema='public'") == [
        (0,)
    ]

    empty = occupied.model_copy(update={"airflow_db": postgres.create_database(f"{installation.folder.name}_a")})
    assert bring_back(empty).services == [SERVICE]
    champion = ledger.champion(empty.ledger, SERVICE)
    assert champion is not None


def test_a_store_outside_of_the_home_gets_its_artifacts_back(
    installation: Installation, bring_back: Callable[..., Restored]
) -> None:
    version = installation.promote("one").candidate
    create_backup(installation.settings, "test")
    other = Store(f"file://{installation.folder / 'other-store'}")
    bring_back(installation.elsewhere(store=other.url))
    artifacts.verify(other, version.bento)


def test_a_champion_that_cannot_be_saved_is_an_error(installation: Installation) -> None:
    version = installation.promote("one").candidate
    installation.store.delete(f"{version.bento.uri}/manifest.json")
    with pytest.raises(ArtifactMissing, match=version.bento.digest):
        create_backup(installation.settings, "test")
    assert Catalog(open_store(installation.settings)).ids() == []


def test_the_ledger_knows_the_backups_that_there_are(installation: Installation) -> None:
    """The spec keeps two."""
    installation.promote("one")
    made = [create_backup(installation.settings, f"number {number}") for number in range(3)]
    assert made[2].removed == (made[0].manifest.id,)
    url = installation.settings.ledger_url()
    known = list_backups(url)
    assert [(record.id, record.reason) for record in known] == [
        (made[2].manifest.id, "number 2"),
        (made[1].manifest.id, "number 1"),
    ]
    backed_up = [event.facts for event in ledger.events(url, SERVICE) if event.kind == "backed_up"]
    assert [facts["backup"] for facts in backed_up] == [created.manifest.id for created in made]
    assert {facts["version"] for facts in backed_up} == {1}


def test_backups_at_the_same_time_lose_nothing(installation: Installation) -> None:
    installation.promote("one")
    with ThreadPoolExecutor(4) as pool:
        made: list[Created] = list(pool.map(lambda n: create_backup(installation.settings, str(n)), range(4)))
    store = open_store(installation.settings)
    catalog, objects = Catalog(store), Objects(store, installation.folder)
    kept = catalog.ids()
    assert kept == sorted(created.manifest.id for created in made)[-2:]
    for name in kept:
        verify(catalog.read(name), objects, installation.folder)


def test_the_spec_can_turn_the_backup_before_rollouts_off(installation: Installation) -> None:
    from pipelines.spec import parse_spec

    spec = parse_spec({"name": SERVICE, "backup": {"enabled": False}})
    frozen = artifacts.publish_files(
        installation.store, "spec", {"spec.json": spec.canonical()}, installation.folder / "scratch"
    )
    result = backup.run(backup.Inputs(run=INFO, spec=frozen), installation.settings)
    assert (result.is_skipped, result.detail) == (True, "backup: turned off by the spec of docs")
    assert not Path(installation.settings.backup_url().removeprefix("file://")).exists()


def test_the_backup_folder_is_its_owners_only(installation: Installation) -> None:
    create_backup(installation.settings, "test")
    folder = Path(installation.settings.backup_url().removeprefix("file://"))
    assert folder == installation.folder / "home-backup"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list((installation.settings.resolved_home() / "scratch").iterdir()) == []


def test_backups_inside_the_home_are_refused(installation: Installation) -> None:
    inside = installation.settings.model_copy(update={"backup": f"file://{installation.settings.home}/backup"})
    with pytest.raises(BadInput, match="would be lost with it"):
        create_backup(inside, "test")


@pytest.mark.parametrize("name", ["ledger", "airflow_db"])
def test_a_database_that_is_no_postgres_is_refused(installation: Installation, name: str) -> None:
    settings = installation.settings.model_copy(update={name: f"sqlite:///{installation.folder}/x.db"})
    with pytest.raises(BadInput, match=r"sqlite.*use PostgreSQL"):
        create_backup(settings, "test")


@pytest.mark.parametrize(("name", "error"), [("ledger", LedgerUnavailable), ("airflow_db", DatabaseAway)])
def test_a_database_that_is_away_may_come_back_and_no_password_is_told(
    installation: Installation, name: str, error: type[Exception]
) -> None:
    url = "postgresql+psycopg2://someone:secret@127.0.0.1:1/x"
    with pytest.raises(error) as raised:
        create_backup(installation.settings.model_copy(update={name: url}), "test")
    assert raised.value.retryable  # type: ignore[attr-defined]
    assert "127.0.0.1" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.skipif(not OLD_POSTGRES.exists(), reason="needs the Debian package postgresql-15")
def test_a_server_that_is_newer_than_pg_dump_is_a_clear_error(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "programs", lambda: OLD_POSTGRES)
    with pytest.raises(DumpFailed, match=r"server is newer than this pg_dump.*server version: 18"):
        create_backup(installation.settings, "test")


def test_a_dump_of_a_newer_server_is_refused(installation: Installation, postgres: LivePostgres) -> None:
    database = create_backup(installation.settings, "test").manifest.databases[0]
    newer = database.model_copy(update={"server_version": 990000})
    with pytest.raises(RestoreRefused, match=r"dump is of PostgreSQL 99, the server has 18"):
        dumps.check_target(newer, postgres.create_database(f"{installation.folder.name}_n"))


def test_a_password_reaches_pg_dump_by_environment_only(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []
    run = subprocess.run

    def remember(command: list[str], **options: object) -> object:
        seen.append((command, options["env"]))  # type: ignore[arg-type]
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", remember)
    url = installation.settings.airflow_db.replace("postgres@", "postgres:secret@")
    dumps.dump("airflow", url, installation.folder / "a.dump")
    ((command, environment),) = seen
    assert "secret" not in " ".join(command)
    assert environment["PGPASSWORD"] == "secret"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="backups")
    yield "s3://backups"
    server.stop()


def test_the_same_on_s3(
    postgres: LivePostgres, tmp_path: Path, bucket: str, bring_back: Callable[..., Restored]
) -> None:
    """The artifact store and the backups both lie there."""
    installation = Installation.make(postgres, tmp_path, store=f"{bucket}/store", backup=f"{bucket}/backup")
    installation.promote("one")
    first = create_backup(installation.settings, "test")
    second = create_backup(installation.settings, "test")
    assert first.num_written > 2
    assert second.num_written <= 2, "the dumps"
    assert bring_back(installation.elsewhere(store=f"{bucket}/other-store")).services == [SERVICE]

    changed = flip_an_object(open_store(installation.settings), second.manifest)
    with pytest.raises(BackupDamaged, match=changed):
        bring_back(installation.elsewhere("another-home", store=f"{bucket}/third-store"))
    assert Store(f"{bucket}/third-store").list("artifacts") == []


def flip_an_object(store: Store, manifest: BackupManifest) -> str:
    file = next(file for file in manifest.files if file.path.endswith("bento.txt"))
    path = f"objects/{file.sha256[:2]}/{file.sha256}"
    data = store.read(path)
    assert data is not None
    store.put(path, bytes([data[0] ^ 1]) + data[1:])
    return file.sha256[:12]


def test_root_or_not_nothing_is_left_beside_a_restored_home(
    installation: Installation, bring_back: Callable[..., Restored], monkeypatch: pytest.MonkeyPatch
) -> None:
    create_backup(installation.settings, "test")
    made = data_folders(monkeypatch)
    restored = bring_back(installation.elsewhere())
    assert len(made()) == (1 if os.geteuid() == 0 else 0)
    assert not Layout.of(
        restored.settings.model_copy(update={"home": Path(f"{restored.home}.restoring")})
    ).run_dir.exists()
