"""What a run's colour says and who serves afterwards: each task fails, with and without a version in production.

The DAG, its operators and triggers, the ledger and the controller are the product's; work steps' processes and what
stands behind the ports (fleet, router, probe) are fakes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipelines import ledger
from pipelines.errors import ArtifactCorrupt, ReleaseRefused, SlipwayError
from pipelines.ledger import Phase
from pipelines.release import adapters
from pipelines.store import Store
from tests.airflow_case import Lifecycle, digest
from tests.unit.release.fakes import artifact, candidate
from tests.unit.release.world import ALL, World

CANDIDATE = f"tiny-{digest('bento', 'one')[:12]}"
WORK = ("freeze", "validate", "prepare", "train", "evaluate", "package")
ROLLOUT = ("rollout.stage", "rollout.smoke", "rollout.warmup", "rollout.promote")


@pytest.fixture
def world(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Run the real controller over fake ports and the installation's own ledger."""
    made = World(lifecycle.settings.ledger_url())
    monkeypatch.setattr(adapters, "connect", lambda _: adapters.Adapters(made.fleet, made.router, made.probe))
    stopping = threading.Event()

    def keep_looking() -> None:
        while not stopping.wait(0.02):
            try:
                ledger.beat(made.url)
                made.controller.look("tiny")
            except SlipwayError:
                continue  # SQLite may be locked for a moment

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    yield made
    stopping.set()
    thread.join()


@pytest.fixture
def champion(world: World, lifecycle: Lifecycle) -> str:
    """Put a version into production and return the name of its copy."""
    opened = world.open(candidate("zero", service="tiny"), "run-zero", *ALL)
    deadline = time.monotonic() + 60
    while world.read(opened).state.phase is not Phase.PROMOTED:
        assert time.monotonic() < deadline, world.read(opened)
        time.sleep(0.02)
    lifecycle.champion = artifact("model", "zero").model_dump()
    lifecycle.tell_results("one")
    return opened.candidate.copy_name


@pytest.fixture(params=["no-champion", "champion"])
def before(request: pytest.FixtureRequest) -> str | None:
    """Return who served before the run: nobody, or the champion."""
    return request.getfixturevalue("champion") if request.param == "champion" else None


def break_work_step(name: str) -> Callable[[Lifecycle, World, pytest.MonkeyPatch], None]:
    return lambda lifecycle, *_: lifecycle.tell(name, status=20, prints=["error: refused"])


def break_stage(_: Lifecycle, world: World, __: pytest.MonkeyPatch) -> None:
    def refuse(call: str) -> None:
        if call == f"start {CANDIDATE}":
            raise ArtifactCorrupt("artifact bento: model.safetensors differs from its manifest")

    world.faults.before = refuse


def break_smoke(_: Lifecycle, world: World, __: pytest.MonkeyPatch) -> None:
    world.probe.wrong.add(CANDIDATE)


def break_warmup(_: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(port: int, version: ledger.Version, count: int) -> None:
        raise ArtifactCorrupt("golden.jsonl, line 3: not a GoldenRequest")

    monkeypatch.setattr(world.probe, "warm_up", fail)


def break_promote(_: Lifecycle, world: World, __: pytest.MonkeyPatch) -> None:
    other = candidate("other", service="tiny")
    stranger = ledger.Version(**other.model_dump(), id=99, number=99, run_id="x")
    world.probe.impostors[CANDIDATE] = stranger


def break_record(_: Lifecycle, __: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ReleaseRefused("the endpoint does not answer")

    monkeypatch.setattr(ledger, "record_release", refuse)


BREAKS = {
    **{name: break_work_step(name) for name in WORK},
    "rollout.stage": break_stage,
    "rollout.smoke": break_smoke,
    "rollout.warmup": break_warmup,
    "rollout.promote": break_promote,
    "record": break_record,
}
ROLLBACK = {**dict.fromkeys(WORK, "skipped"), **dict.fromkeys(ROLLOUT, "success"), "record": "skipped"}


@pytest.mark.parametrize("broken", list(BREAKS))
def test_a_failed_task_makes_the_run_red_and_the_right_version_serves(
    broken: str, lifecycle: Lifecycle, world: World, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    BREAKS[broken](lifecycle, world, monkeypatch)
    run = lifecycle.run()
    assert (run.state, run.tasks[broken]) == ("failed", "failed")
    assert run.tasks["rollback"] == ROLLBACK[broken]
    assert run.tries[broken] == 1, "none of these can be helped by a retry"
    assert world.router.receiver("tiny") == (CANDIDATE if broken == "record" else before)


def test_a_good_run_is_green_and_its_version_serves(lifecycle: Lifecycle, world: World, before: str | None) -> None:
    run = lifecycle.run(note="a better one")
    assert run.state == "success"
    assert run.tasks["rollback"] == "skipped"
    assert {state for task, state in run.tasks.items() if task != "rollback"} == {"success"}
    assert world.router.receiver("tiny") == CANDIDATE
    assert world.fleet.list("tiny") == {CANDIDATE}
    store = Store(lifecycle.settings.store_url())
    receipts = {path.split("/")[3] for path in store.list("runs/tiny") if path.endswith("/1.json")}
    assert receipts == set(run.tasks) - {"rollback"}


def test_what_only_the_ledger_knows_reaches_a_step_as_input(lifecycle: Lifecycle, world: World, champion: str) -> None:
    run = lifecycle.run(max_steps=7, force=["train"], note="why")
    folder = next(iter(Store(lifecycle.settings.store_url()).list("runs/tiny"))).rsplit("/", 2)[0]
    assert run.state == "success"

    def document(step: str) -> dict[str, object]:
        data = Store(lifecycle.settings.store_url()).read(f"{folder}/{step}/1.inputs.json")
        assert data is not None
        content: dict[str, object] = json.loads(data)
        return content

    assert document("evaluate")["inputs"] == {
        "model": {"kind": "model", "digest": digest("model", "one")},
        "tokens": {"kind": "tokens", "digest": digest("tokens", "one")},
        "champion": artifact("model", "zero").model_dump(),
    }
    assert document("freeze")["inputs"] == {"max_steps": 7, "force": ["train"], "note": "why"}


def test_a_run_leaves_asset_events_with_digests(lifecycle: Lifecycle, world: World) -> None:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = lifecycle.run()
    with create_session() as session:
        rows = session.execute(
            select(AssetModel.name, AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetEvent.source_run_id == run.id)
        ).all()
    extras = {row.name: row.extra for row in rows}
    assert extras["tiny/dataset"]["dataset"] == digest("dataset", "one")
    assert extras["tiny/version"]["bento"] == digest("bento", "one")
    assert extras["tiny/release"]["version"] == 1
    assert extras["tiny/release"]["endpoint"].startswith("http://127.0.0.1:")
