"""The page "Releases": who may see it, who may order, what it shows, and that nobody else can make a browser order.

Airflow's API server with its own permissions and middleware, the mounted page and the ledger are real; the release
world behind the ledger is made of fakes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines import artifacts, ledger
from pipelines.errors import ReleaseRefused
from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.release import adapters
from pipelines.release.lowering import request_rollback
from pipelines.release.report import Point
from pipelines.step import Receipt, RunInfo
from pipelines.steps import return_to
from pipelines.store import Store
from tests.airflow_case import ROOT, Lifecycle
from tests.unit.release.fakes import candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.world import ALL, World

ORIGIN = "http://testserver"
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\" autofocus onfocus=\"alert(2)"


@pytest.fixture
def world(lifecycle: Lifecycle, tmp_path: Path) -> World:
    """Return a release world on the installation's own ledger, whose clock only the test moves."""
    clock = Clock()
    return World(new_ledger(tmp_path / "ledger.db", clock), clock=clock)


@pytest.fixture
def first(world: World) -> Rollout:
    """Release version 1."""
    return world.release("one", service="tiny")


@pytest.fixture
def running(world: World, first: Rollout) -> Rollout:
    """Bring version 2 to 5 %, where its next permit is missing."""
    wanted = candidate("two", service="tiny", against="one")
    opened = world.open(wanted, "manual__two", *ALL[: ALL.index("advance_050")])
    world.settle("tiny")
    return world.read(opened)


@pytest.fixture(scope="module")
def api(airflow_home: Path) -> Iterator[Any]:
    """Make Airflow's API server with its plugins, in this process."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
        purge_cached_app()
        yield create_app(apps="core")


Visit = Callable[..., TestClient]


@pytest.fixture
def visit(api: Any) -> Visit:
    """Let somebody with a role open a browser; nobody in particular without one."""

    def open_browser(role: str | None, name: str = "ann") -> TestClient:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        client = TestClient(api, base_url=ORIGIN, raise_server_exceptions=False)
        if role is not None:
            user = SimpleAuthManagerUser(username=name, role=role, teams=[])
            client.cookies.set("_token", get_auth_manager().generate_jwt(user))
        return client

    return open_browser


@pytest.fixture
def dag(lifecycle: Lifecycle) -> Iterator[Any]:
    """Put the DAG `rollback` into Airflow's database, ready to run; yield what reads its runs."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models import DagModel, DagRun, Log
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select, update

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=str(ROOT / "dags" / "rollback.py"), bundle_path=ROOT / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    with create_session() as session:
        sync_bag_to_db(bag, "dags-folder", None, session=session)
        session.execute(update(DagModel).where(DagModel.dag_id == "rollback").values(is_paused=False))

    def runs() -> list[Any]:
        with create_session() as session:
            return list(session.scalars(select(DagRun).where(DagRun.dag_id == "rollback").order_by(DagRun.id)))

    yield runs
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == "rollback"))
        session.execute(delete(Log).where(Log.dag_id == "rollback"))


def order(client: TestClient, body: dict[str, Any], **headers: str | None) -> Any:
    """Send an order as the page does, with headers changed or, where None, left out."""
    token = client.get("/slipway/services").headers.get("X-Slipway-Token")
    sent = {"Origin": ORIGIN, "X-Slipway-Token": token, **{name.replace("_", "-"): v for name, v in headers.items()}}
    return client.post("/slipway/orders", json=body, headers={name: v for name, v in sent.items() if v is not None})


def abort(rollout: Rollout) -> dict[str, Any]:
    return {"service": "tiny", "rollout": rollout.id}


PAGES = ("", "services", "static/page.js", "static/page.css", "static/icon.svg")
ROUTES = (*PAGES, "reports/1", "trainings/1", "receipts/1")


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_sees_anything_without_a_session(route: str, visit: Visit, running: Rollout) -> None:
    assert visit(None).get(f"/slipway/{route}").status_code == 401
    forged = visit(None)
    forged.cookies.set("_token", "e30.e30.x")
    assert forged.get(f"/slipway/{route}").status_code in (401, 403)


@pytest.mark.usefixtures("airflow_home")
def test_the_app_has_no_other_routes() -> None:
    from slipway.ui.app import releases_app

    paths = {getattr(route, "path", "").replace("{name}", "page.js") for route in releases_app().routes}
    guarded = {f"/{re.sub('[0-9]+', '{rollout_id}', route)}" for route in ROUTES} | {"/orders"}
    assert paths <= guarded


def test_an_order_needs_a_session(visit: Visit, running: Rollout, dag: Any) -> None:
    assert order(visit(None), abort(running)).status_code == 401
    assert dag() == []


def test_a_viewer_looks_but_cannot_order(visit: Visit, running: Rollout, dag: Any) -> None:
    viewer = visit("viewer")
    page = viewer.get("/slipway/services")
    assert page.status_code == 200
    assert "version 1" in page.text
    assert "<button" not in page.text
    assert "who may look only" in viewer.get("/slipway/").text
    assert order(viewer, abort(running)).status_code == 403
    assert dag() == []


@pytest.mark.parametrize("role", ["user", "op", "admin"])
def test_who_may_trigger_the_dag_may_order(role: str, visit: Visit, running: Rollout, dag: Any) -> None:
    from airflow.models import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    told = order(visit(role, "eve"), abort(running))
    assert told.status_code == 200, told.text
    (run,) = dag()
    assert run.conf == {"service": "tiny", "rollout": running.id, "version": None, "person": "eve"}
    assert (run.triggering_user_name, str(run.state)) == ("eve", "queued")
    assert told.json()["run"].startswith("../dags/rollback/runs/manual__")
    with create_session() as session:
        (entry,) = session.scalars(select(Log).where(Log.dag_id == "rollback", Log.event == "trigger_dag_run"))
        assert (entry.owner, json.loads(entry.extra)) == ("eve", abort(running))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X_Slipway_Token": None}, id="no-token"),
        pytest.param({"X_Slipway_Token": "0" * 64}, id="wrong-token"),
        pytest.param({"X_Slipway_Token": "\u00e9"}, id="strange-token"),
        pytest.param({"Origin": None}, id="no-origin"),
        pytest.param({"Origin": "null"}, id="sandboxed-origin"),
        pytest.param({"Origin": "http://evil.example"}, id="other-origin"),
        pytest.param({"Origin": "http://testserver.evil.example"}, id="similar-origin"),
        pytest.param({"Sec_Fetch_Site": "cross-site"}, id="cross-site"),
        pytest.param({"Sec_Fetch_Site": "same-site"}, id="other-host-of-the-site"),
    ],
)
def test_another_site_cannot_order(headers: dict[str, str | None], visit: Visit, running: Rollout, dag: Any) -> None:
    encoded: dict[str, Any] = {name: value and value.encode("latin-1") for name, value in headers.items()}
    assert order(visit("admin"), abort(running), **encoded).status_code == 403
    assert dag() == []
    assert order(visit("admin"), abort(running), Sec_Fetch_Site="same-origin").status_code == 200  # the control


def test_a_token_is_worthless_in_another_session(visit: Visit, running: Rollout, dag: Any) -> None:
    mine, other = visit("admin", "ann"), visit("admin", "bob")
    token = other.get("/slipway/services").headers["X-Slipway-Token"]
    assert order(mine, abort(running), X_Slipway_Token=token).status_code == 403
    assert order(other, abort(running), X_Slipway_Token=token).status_code == 200
    assert len(dag()) == 1


def test_looking_changes_nothing(visit: Visit, world: World, running: Rollout, dag: Any) -> None:
    client = visit("admin")
    before = ledger.events(world.url, "tiny")
    for route in (*ROUTES, "orders", "orders?service=tiny&rollout=2"):
        client.get(f"/slipway/{route}")
    assert client.get("/slipway/orders").status_code == 405
    assert ledger.events(world.url, "tiny") == before
    assert dag() == []


def test_the_running_rollout_is_shown(visit: Visit, world: World, running: Rollout) -> None:
    text = seen(visit("admin"))
    assert "version 1 serves, digest" in text
    assert running.stable is not None
    assert running.stable.model.digest[:12] in text
    assert f"Running: rollout {running.id}, version 2 in place of version 1" in text
    assert "Holds: waiting for the permit to advance_050" in text
    assert re.search(r"replayed 0 bad of [\d,]+ 0 bad of [\d,]+", text)
    html = visit("admin").get("/slipway/services").text
    assert re.findall(r'<li class="(\w+)"[^>]*>(\d+ %)', html) == [
        ("now", "5 %"),
        ("ahead", "50 %"),
        ("ahead", "100 %"),
    ]
    looks = [event for event in ledger.events(world.url, "tiny", rollout=running.id) if "standing" in event.facts]
    lines = re.findall(r'<polyline class="(\w+)" points="([^"]+)"', html)
    assert [(kind, len(path.split())) for kind, path in lines] == [("against", len(looks)), ("for", len(looks))]
    assert "roll back at E 100" in html
    assert "Abort rollout 2 of tiny?" in html
    assert "All users are with version 1 at once." in html


def test_a_new_look_lengthens_the_curve(visit: Visit, world: World, running: Rollout) -> None:
    client = visit("admin")

    def length() -> int:
        found = re.search(r'<polyline class="for" points="([^"]+)"', client.get("/slipway/services").text)
        assert found is not None
        return len(found.group(1).split())

    before = length()
    world.pass_time(1.0, "tiny")
    assert length() == before + 1


def test_history_says_how_each_ended(visit: Visit, world: World, running: Rollout) -> None:
    request_rollback(world.url, running.id, Outcome.ABORTED, "aborted by ann", fleet=world.fleet, router=world.router)
    world.settle("tiny")
    text = seen(visit("admin"))
    assert "Last rollout: rollout 2" in text
    assert re.search(r"2 2 aborted 2027-01-15 \d\d:\d\d UTC [\dminhs ]+ aborted by ann", text)
    assert "first release of the service" in text


def test_what_served_earlier_may_be_returned_to(visit: Visit, world: World, first: Rollout, dag: Any) -> None:
    client = visit("op")
    assert "Roll back" not in seen(client)
    world.release("two", against="one", service="tiny")
    assert "Roll back to version 1" in seen(client)
    assert order(client, {"service": "tiny", "version": 1}).status_code == 200
    (run,) = dag()
    assert run.conf == {"service": "tiny", "rollout": None, "version": 1, "person": "ann"}


def test_text_from_outside_stays_text(visit: Visit, world: World, running: Rollout) -> None:
    request_rollback(world.url, running.id, Outcome.ABORTED, HOSTILE, fleet=world.fleet, router=world.router)
    world.open(candidate("three", service="tiny", against="one"), HOSTILE)
    html = visit("admin").get("/slipway/services").text
    assert HOSTILE in unescape(html)
    for markup in ("<script", "<img", '"alert', ' onfocus="'):
        assert markup not in html


def test_a_run_that_airflow_has_is_linked(visit: Visit, world: World) -> None:
    from airflow.models import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType
    from sqlalchemy import delete

    run_id = "manual__2026-11-20T10:00:00+00:00"
    world.open(candidate("one", service="tiny"), run_id)
    with create_session() as session:
        now = datetime.now(UTC)
        session.add(DagRun(dag_id="lifecycle_tiny", run_id=run_id, run_type=DagRunType.MANUAL, run_after=now))
    try:
        html = visit("viewer").get("/slipway/services").text
    finally:
        with create_session() as session:
            session.execute(delete(DagRun).where(DagRun.run_id == run_id))
    address = "../dags/lifecycle_tiny/runs/manual__2026-11-20T10%3A00%3A00%2B00%3A00"
    assert f'<a href="{address}">run</a>' in html
    assert ">run</a>" not in visit("viewer").get("/slipway/services").text


@pytest.mark.usefixtures("airflow_home")
def test_a_hostile_run_id_gives_a_harmless_link() -> None:
    from slipway.ui.ordering import run_path

    assert run_path("rollback", "../?x=<b>#") == "../dags/rollback/runs/..%2F%3Fx%3D%3Cb%3E%23"


@pytest.mark.parametrize("route", ["", "services", "static/page.js", "reports/99"])
def test_no_answer_lets_a_script_in(route: str, visit: Visit, running: Rollout) -> None:
    answer = visit("admin").get(f"/slipway/{route}")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_needs_nothing_from_elsewhere(visit: Visit, running: Rollout) -> None:
    client = visit("admin")
    for html in (client.get("/slipway/").text, client.get("/slipway/services").text):
        assert re.findall(r"<script(?! src=\"static/)", html) == []
        assert re.findall(r"\s(?:style|on\w+)=", html) == []
        assert [link for link in re.findall(r'(?:src|href)="([^"]*)"', html) if re.match(r"\w+:|/", link)] == []


def test_an_empty_ledger_is_said_in_a_sentence(visit: Visit, world: World) -> None:
    assert seen(visit("viewer")).startswith("Nothing was released yet.")


def test_an_unreachable_ledger_is_said_in_a_sentence(
    visit: Visit, lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag: Any
) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER", f"sqlite:///{tmp_path}/nowhere/ledger.db")
    client = visit("admin")
    answer = client.get("/slipway/services")
    assert (answer.status_code, client.get("/slipway/").status_code) == (503, 200)
    assert "The ledger does not answer" in answer.text
    assert "nowhere" not in answer.text
    assert dag() == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"service": "tiny", "rollout": 1}, (409, "rollout 1 is over"), id="over-since"),
        pytest.param({"service": "tiny", "version": 1}, (409, "rollout 2 of tiny is running"), id="running-since"),
        pytest.param({"service": "other", "rollout": 1}, (409, "known services: tiny"), id="unknown-service"),
        pytest.param({"service": "tiny"}, (422, "name either"), id="nothing"),
        pytest.param({"service": "tiny", "rollout": 2, "version": 1}, (422, "name either"), id="both"),
        pytest.param({"service": "tiny", "rollout": 2, "person": "bob"}, (422, "Extra inputs"), id="more-than-asked"),
    ],
)
def test_an_order_about_what_is_not_so_is_refused(
    body: dict[str, Any], expected: tuple[int, str], visit: Visit, running: Rollout, dag: Any
) -> None:
    told = order(visit("admin"), body)
    assert told.status_code == expected[0]
    assert expected[1] in told.text
    assert dag() == []


def test_a_version_that_never_served_is_refused(visit: Visit, first: Rollout, dag: Any) -> None:
    told = order(visit("admin"), {"service": "tiny", "version": 7})
    assert told.status_code == 409
    assert "no other version 7" in told.text
    assert dag() == []


def test_a_service_that_the_form_does_not_offer_is_refused(visit: Visit, world: World, dag: Any) -> None:
    opened = world.open(candidate("one", service="strange"), "run-one")
    told = order(visit("admin"), {"service": "strange", "rollout": opened.id})
    assert told.status_code == 409
    assert "Airflow refuses" in told.text
    assert dag() == []


def test_a_paused_dag_would_not_carry_an_order_out(visit: Visit, running: Rollout, dag: Any) -> None:
    from airflow.models import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == "rollback").values(is_paused=True))
    told = order(visit("admin"), abort(running))
    assert told.status_code == 409
    assert "is paused" in told.text
    assert dag() == []


def test_an_order_aborts_the_rollout_that_was_seen_and_no_other(
    lifecycle: Lifecycle, world: World, running: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "connect", lambda _: adapters.Adapters(world.fleet, world.router, world.probe))
    info = RunInfo(model="tiny", run_id="manual__abort", task_id="return")
    with pytest.raises(ReleaseRefused, match=r"rollout 1 .* is not running"):
        return_to.begin(return_to.Inputs(run=info, rollout=1), lifecycle.settings)
    assert world.read(running).state.phase is Phase.STEP
    waiting = return_to.begin(return_to.Inputs(run=info, rollout=running.id, person="ann"), lifecycle.settings)
    world.settle("tiny")
    ended = world.read(running).state
    assert (ended.outcome, ended.detail) == (Outcome.ABORTED, "aborted by ann")
    again = return_to.begin(return_to.Inputs(run=info, rollout=running.id, person="ann"), lifecycle.settings)
    for asked in (waiting, again):
        result = return_to.poll(asked, lifecycle.settings)
        assert result is not None
        assert result.version == 1


def published(lifecycle: Lifecycle, world: World, text: str) -> Rollout:
    store = Store(lifecycle.settings.store_url())
    page = {"report.html": text.encode()}
    ref = artifacts.publish_files(store, "evaluation", page, lifecycle.settings.resolved_home() / "scratch")
    return world.open(candidate("one", service="tiny").model_copy(update={"evaluation": ref}), "run-one")


def test_a_report_is_shown_but_can_do_nothing(visit: Visit, lifecycle: Lifecycle, world: World) -> None:
    opened = published(lifecycle, world, "<script>alert(1)</script>")
    answer = visit("viewer").get(f"/slipway/reports/{opened.id}")
    assert (answer.status_code, answer.text) == (200, "<script>alert(1)</script>")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'; style-src")


def test_the_report_of_the_training_is_shown(visit: Visit, lifecycle: Lifecycle, world: World) -> None:
    opened = world.open(candidate("one", service="tiny"), "manual__one")
    store = Store(lifecycle.settings.store_url())
    page = {"report.html": b"<h1>tiny: training</h1>"}
    record = artifacts.publish_files(store, "training", page, lifecycle.settings.resolved_home() / "scratch")
    info = RunInfo(model="tiny", run_id="manual__one", task_id="train")
    result = {"training": record.model_dump()}
    store.put(info.receipt_uri, Receipt(step="train", run=info, key="k", started=1, seconds=2, result=result).encode())
    answer = visit("viewer").get(f"/slipway/trainings/{opened.id}")
    assert (answer.status_code, answer.text) == (200, "<h1>tiny: training</h1>")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'; style-src")


def test_a_changed_report_is_not_shown(visit: Visit, lifecycle: Lifecycle, world: World) -> None:
    opened = published(lifecycle, world, "true")
    Store(lifecycle.settings.store_url()).put(f"{opened.candidate.evaluation.uri}/report.html", b"false")
    answer = visit("viewer").get(f"/slipway/reports/{opened.id}")
    assert answer.status_code == 409
    assert "differs from its manifest" in answer.text
    assert "false" not in answer.text


MISSING = [f"{kind}/{number}" for kind in ("reports", "trainings", "receipts") for number in (1, 99)]


@pytest.mark.parametrize("route", [*MISSING, "static/app.py"])
def test_what_is_not_there_is_not_found(route: str, visit: Visit, first: Rollout) -> None:
    answer = visit("viewer").get(f"/slipway/{route}")
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_receipts_are_shown_by_task(visit: Visit, lifecycle: Lifecycle, world: World) -> None:
    opened = world.open(candidate("one", service="tiny"), "manual__one")
    info = RunInfo(model="tiny", run_id="manual__one", task_id="train")
    receipt = Receipt(step="train", run=info, key="k", started=1.0, seconds=2.0, result={"loss": 3})
    Store(lifecycle.settings.store_url()).put(info.receipt_uri, receipt.encode())
    answer = visit("viewer").get(f"/slipway/receipts/{opened.id}")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"train": json.loads(receipt.encode())}


def test_the_page_is_in_airflows_menu(visit: Visit) -> None:
    views = visit("admin").get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in views if plugin["name"] == "slipway"]
    (view,) = ours["external_views"]
    assert (view["name"], view["href"], view["url_route"]) == ("Releases", "slipway/", "releases")
    assert visit("admin").get(f"/{view['href']}").status_code == 200


def test_a_curve_is_thinned_and_keeps_within_its_frame() -> None:
    from slipway.ui.curve import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, chart

    def point(place: int) -> Point:
        weight = 5.0 if place < 5000 else 25.0
        return Point(seq=place, at=10.0 * place, phase="step", weight=weight, log_e=-place, log_evidence=float(place))

    points = [point(place) for place in range(10_000)]
    assert chart(points[:1], 4.6, 3.0) is None
    drawn = chart(points, math.log(100), math.log(20))
    assert drawn is not None
    for line in drawn.lines:
        places = [tuple(map(float, place.split(","))) for place in line.path.split()]
        assert len(places) <= MAX_POINTS + 1
        assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in places)
    assert [(band.label, band.level) for band in drawn.bands] == [("5 %", 1), ("25 %", 2)]
    assert drawn.bands[0].x + drawn.bands[0].width == pytest.approx(drawn.bands[1].x)
    assert [mark.label for mark in drawn.limits] == ["roll back at E 100", "go on at evidence 20"]


def seen(client: TestClient) -> str:
    """Return the text that a person reads."""
    answer = client.get("/slipway/services")
    assert answer.status_code == 200, answer.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())
