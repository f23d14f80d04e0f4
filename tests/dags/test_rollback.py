"""The DAG `rollback`: a form with what is known, and a task that asks the ledger what is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.backup.errors import BackupDamaged
from pipelines.errors import BadInput, ReleaseRefused
from pipelines.formats.catalog import (
    KnownBackup,
    Offers,
    ReleaseCatalog,
    ServedVersion,
    catalog_path,
    write_catalog,
)
from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.release import adapters, offers
from pipelines.step import RunInfo
from pipelines.steps import return_to
from tests.airflow_case import ROOT, Lifecycle
from tests.unit.release.fakes import candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.world import ALL, World

BACKUP = "20261120T140159.123Z-0123456789abcdef"
KNOWN = ReleaseCatalog(
    services={
        "tiny": Offers(
            serving=2,
            versions=(ServedVersion(number=2, since=1_795_184_000.0), ServedVersion(number=1, since=1_795_183_320.0)),
            backups=(KnownBackup(name="of-2", version=2), KnownBackup(name=BACKUP, version=1)),
        )
    }
)
LABELS = {
    "tiny/version/1": "tiny 1 · in production from 2026-11-20 14:02 UTC",
    f"tiny/backup/{BACKUP}": f"backup {BACKUP} · tiny 1",
}


def parsed() -> Any:
    """Return the DAG as the product's file makes it."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags" / "rollback.py"))
    assert bag.import_errors == {}
    return bag.dags["rollback"]


def version_hash() -> str:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization

    return SerializedDagModel.hash(DagSerialization.to_dict(parsed()))


def offered_in(dag: Any) -> dict[str, Any]:
    schema: dict[str, Any] = dag.params.get_param("return_to").schema
    return schema


@pytest.fixture
def known(lifecycle: Lifecycle) -> ReleaseCatalog:
    """Let the installation know two versions and two backups."""
    write_catalog(lifecycle.settings.resolved_home(), KNOWN)
    return KNOWN


def test_the_form_offers_known_versions_and_backups_but_not_what_serves(
    lifecycle: Lifecycle, known: ReleaseCatalog
) -> None:
    schema = offered_in(parsed())
    assert schema["enum"] == [None, *LABELS]
    assert schema["values_display"] == {"null": "nothing from this list", **LABELS}


def test_the_form_refuses_what_it_does_not_offer_and_takes_what_it_does(
    lifecycle: Lifecycle, known: ReleaseCatalog
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    dag = parsed()
    dag.params.update({"return_to": "tiny/version/1"})
    with pytest.raises(ParamValidationError, match="is not one of"):
        dag.params.update({"return_to": "tiny/version/9"})


def test_plain_values_need_no_catalog(lifecycle: Lifecycle, known: ReleaseCatalog) -> None:
    """A version that was promoted a moment ago, which no form lists yet, can be ordered by the page and the API."""
    dag = parsed()
    dag.params.update({"service": "tiny", "version": 7, "rollout": None, "backup": "a-new-one", "person": "ann"})
    dag.params.validate()


def damage(home: Path) -> None:
    catalog_path(home).write_bytes(b'{"services": {"tiny": ')


def remove(home: Path) -> None:
    catalog_path(home).unlink()


def empty(home: Path) -> None:
    write_catalog(home, ReleaseCatalog(services={"tiny": Offers()}))


@pytest.mark.parametrize("harm", [damage, remove, empty])
def test_without_a_catalog_the_form_has_plain_fields(lifecycle: Lifecycle, known: ReleaseCatalog, harm: Any) -> None:
    harm(lifecycle.settings.resolved_home())
    dag = parsed()
    assert not {"enum", "values_display"} & offered_in(dag).keys()
    assert dag.params.get_param("version").schema["type"] == ["null", "integer"]
    assert dag.params.get_param("service").schema["enum"] == [None, "tiny"]


def test_a_task_takes_what_was_picked_whatever_its_machine_knows(
    lifecycle: Lifecycle, known: ReleaseCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "rollback")
    dag = parsed()
    dag.params.update({"return_to": "tiny/version/9"})
    dag.params.validate()


def test_the_dag_has_a_new_version_only_when_something_is_new(lifecycle: Lifecycle, known: ReleaseCatalog) -> None:
    first = version_hash()
    write_catalog(lifecycle.settings.resolved_home(), known)
    assert version_hash() == first
    tiny = known.services["tiny"]
    write_catalog(
        lifecycle.settings.resolved_home(),
        ReleaseCatalog(services={"tiny": tiny.model_copy(update={"backups": tiny.backups[:1]})}),
    )
    assert version_hash() != first


def test_airflows_own_check_finds_nothing_that_varies(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.utils.dag_version_inflation_checker import check_dag_file_stability

    path = ROOT / "dags" / "rollback.py"
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL", "error")
    assert not check_dag_file_stability(str(path)).get_error_format_dict(str(path), path.parent)


NOTHING: dict[str, Any] = {"return_to": None, "service": None, "version": None, "backup": None}


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        pytest.param({"service": "tiny"}, ("tiny", None, ""), id="service"),
        pytest.param({"service": "tiny", "version": 3}, ("tiny", 3, ""), id="version"),
        pytest.param({"service": "tiny", "backup": "b"}, ("tiny", None, "b"), id="backup"),
        pytest.param({"return_to": "tiny/version/3"}, ("tiny", 3, ""), id="picked-version"),
        pytest.param({"return_to": f"tiny/backup/{BACKUP}"}, ("tiny", None, BACKUP), id="picked-backup"),
        pytest.param({"return_to": "tiny/version/3", "service": "tiny", "version": 3}, ("tiny", 3, ""), id="the-same"),
    ],
)
def test_what_is_picked_or_written_is_what_is_asked_for(
    airflow_home: Path, params: dict[str, Any], wanted: tuple[str, int | None, str]
) -> None:
    from slipway.returning import chosen

    service, version, backup = wanted
    assert chosen({**NOTHING, **params}) == {"service": service, "version": version, "backup": backup}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({}, "both empty", id="nothing"),
        pytest.param({"return_to": "tiny/version/3", "version": 2}, "but version is 2", id="another-version"),
        pytest.param({"return_to": "tiny/version/3", "service": "big"}, "but service is 'big'", id="another-service"),
        pytest.param({"return_to": "tiny/version/3", "backup": "b"}, "but backup is 'b'", id="version-and-backup"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(airflow_home: Path, params: dict[str, Any], message: str) -> None:
    from slipway.returning import chosen

    with pytest.raises(BadInput, match=message):
        chosen({**NOTHING, **params})


INFO = RunInfo(model="tiny", run_id="manual__return", task_id="return")


@pytest.fixture
def world(lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a release world on the installation's ledger, in which version 2 replaced version 1."""
    clock = Clock()
    made = World(new_ledger(tmp_path / "ledger.db", clock), clock=clock)
    monkeypatch.setattr(adapters, "connect", lambda _: adapters.Adapters(made.fleet, made.router, made.probe))
    made.release("one", service="tiny")
    made.release("two", service="tiny", against="one")
    return made


@pytest.fixture
def running(world: World) -> Rollout:
    """Bring version 3 to 5 %, where its next permit is missing."""
    opened = world.open(candidate("three", service="tiny", against="two"), "run-3", *ALL[: ALL.index("advance_050")])
    world.settle("tiny")
    return world.read(opened)


def returned(lifecycle: Lifecycle, world: World, **order: Any) -> int | None:
    """Order a return, let the controller work, and return which version serves then."""
    waiting = return_to.begin(return_to.Inputs(run=INFO, person="ann", **order), lifecycle.settings)
    result = None
    for _ in range(3):
        world.settle("tiny")
        result = result or return_to.poll(waiting, lifecycle.settings)
    assert result is not None
    return result.version


def hold_backup(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    monkeypatch.setattr(return_to, "version_held", lambda *_: version)


def test_a_version_is_returned_to(lifecycle: Lifecycle, world: World) -> None:
    assert returned(lifecycle, world, version=1) == 1


def test_a_backup_means_the_version_that_it_holds(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_backup(monkeypatch, 1)
    assert returned(lifecycle, world, backup=BACKUP) == 1


def test_a_running_rollout_is_aborted_first(lifecycle: Lifecycle, world: World, running: Rollout) -> None:
    assert returned(lifecycle, world, version=1) == 1
    assert world.read(running).state.outcome is Outcome.ABORTED


def test_the_version_that_the_abort_brought_back_needs_no_second_rollout(
    lifecycle: Lifecycle, world: World, running: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_backup(monkeypatch, 2)
    assert returned(lifecycle, world, backup=BACKUP) == 2
    assert world.read(running).state.outcome is Outcome.ABORTED


def test_an_unknown_version_is_refused_before_anything_is_aborted(
    lifecycle: Lifecycle, world: World, running: Rollout
) -> None:
    with pytest.raises(ReleaseRefused, match=r"tiny has no version 9 to return to; .* in production: 2, 1; serving: 2"):
        return_to.begin(return_to.Inputs(run=INFO, version=9), lifecycle.settings)
    assert world.read(running).state.phase is Phase.STEP


def test_a_damaged_backup_is_refused_before_anything_is_aborted(
    lifecycle: Lifecycle, world: World, running: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise BackupDamaged(f"backup {BACKUP} is damaged: a byte; nothing was done")

    monkeypatch.setattr(return_to, "version_held", refuse)
    with pytest.raises(BackupDamaged, match=BACKUP):
        return_to.begin(return_to.Inputs(run=INFO, backup=BACKUP), lifecycle.settings)
    assert world.read(running).state.phase is Phase.STEP


def test_a_version_and_a_backup_together_are_refused(lifecycle: Lifecycle, world: World) -> None:
    with pytest.raises(BadInput, match="name a version or a backup, not both"):
        return_to.begin(return_to.Inputs(run=INFO, version=1, backup=BACKUP), lifecycle.settings)


def test_the_forms_list_is_what_the_ledger_knows(lifecycle: Lifecycle, world: World) -> None:
    offers.refresh(lifecycle.settings)
    enum = offered_in(parsed())["enum"]
    assert enum == [None, "tiny/version/1"]
