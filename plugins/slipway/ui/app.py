"""The page's routes. Reading needs the permission to see runs of the DAG `rollback`, an order the one to trigger it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, FastAPI, HTTPException, Request, Response, status
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ArtifactMissing, LedgerUnavailable, SlipwayError
from pipelines.formats.records import REPORT_FILE, TRAINING_REPORT_FILE
from pipelines.ledger import Rollout
from pipelines.settings import Settings, read_settings
from pipelines.store import Store
from slipway.ui import ordering, views
from slipway.ui.security import DAG_ID, ORDERING, READING, check_origin, may_order, page_token

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""A report is a file from the store: it may look as it likes, and do nothing."""

_SAFE_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def releases_app() -> FastAPI:
    """Return the app that Airflow's API server mounts."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, dependencies=[READING])
    app.get("/")(show_page)
    app.get("/services")(show_services)
    app.get("/static/{name}")(send_static)
    app.get("/reports/{rollout_id}")(show_report)
    app.get("/trainings/{rollout_id}")(show_training)
    app.get("/receipts/{rollout_id}")(show_receipts)
    app.post("/orders", dependencies=[ORDERING, Depends(check_origin)])(place_order)
    app.middleware("http")(_add_headers)
    app.exception_handler(SlipwayError)(_say_plainly)
    return app


def show_page(user: GetUserDep) -> HTMLResponse:
    """Send the frame; it asks for the services by itself, again and again."""
    return _html("page.html", user=user.get_name(), may_order=may_order(user))


def show_services(request: Request, user: GetUserDep) -> HTMLResponse:
    """Send what serves and what is being released, with this session's token for orders."""
    found = views.services(read_settings().ledger_url())
    response = _html("services.html", services=found, may_order=may_order(user))
    response.headers["X-Slipway-Token"] = page_token(request)
    return response


def send_static(name: str) -> FileResponse:
    """Send the page's style sheet, script or icon."""
    if name not in STATIC:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    return FileResponse(HERE / "static" / name, media_type=STATIC[name])


def show_report(rollout_id: int) -> HTMLResponse:
    """Send the evaluation report of a rollout's version, verified against its digest."""
    settings = read_settings()
    rollout = _rollout(settings, rollout_id)
    page = artifacts.read_file(Store(settings.store_url()), rollout.candidate.evaluation, REPORT_FILE)
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def show_training(rollout_id: int) -> HTMLResponse:
    """Send the training report of the run that opened a rollout, verified against its digest."""
    from pipelines.stack.summary import load_receipts

    settings = read_settings()
    rollout = _rollout(settings, rollout_id)
    store = Store(settings.store_url())
    receipt = load_receipts(store, rollout.service, rollout.run_id).get("train")
    if receipt is None:
        raise ArtifactMissing(f"the store has no receipt of the training of run {rollout.run_id}")
    record = ArtifactRef.model_validate(receipt.result["training"])
    page = artifacts.read_file(store, record, TRAINING_REPORT_FILE)
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def show_receipts(rollout_id: int) -> Response:
    """Send the receipts of the run that opened a rollout, by task."""
    from pipelines.stack.summary import load_receipts

    settings = read_settings()
    rollout = _rollout(settings, rollout_id)
    receipts = load_receipts(Store(settings.store_url()), rollout.service, rollout.run_id)
    if not receipts:
        raise ArtifactMissing(f"the store has no receipts of run {rollout.run_id}")
    content = {task: receipt.model_dump(mode="json") for task, receipt in receipts.items()}
    return Response(json.dumps(content, indent=1), media_type="application/json")


def place_order(order: ordering.Order, user: GetUserDep) -> dict[str, str]:
    """Trigger the DAG that carries the order out; return where its run is shown."""
    run_id = ordering.place(read_settings().ledger_url(), order, user.get_name())
    return {"run": ordering.run_path(DAG_ID, run_id)}


def _rollout(settings: Settings, rollout_id: int) -> Rollout:
    rollout = ledger.find_rollout_by_id(settings.ledger_url(), rollout_id)
    if rollout is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no rollout {rollout_id}.")
    return rollout


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    for name, value in _SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _say_plainly(request: Request, error: Exception) -> Response:
    """Return an error as one sentence: the page shows it where the services would be, a button beside itself."""
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    sentence = str(error)
    if isinstance(error, LedgerUnavailable):
        sentence = "The ledger does not answer, so nothing can be shown or ordered here. Services go on as they are."
    code = _status(error)
    if request.method == "POST":
        return JSONResponse({"detail": sentence}, status_code=code)
    return _html("problem.html", status_code=code, sentence=sentence)


def _status(error: Exception) -> int:
    if isinstance(error, ArtifactMissing):
        return status.HTTP_404_NOT_FOUND
    if isinstance(error, SlipwayError) and error.retryable:
        return status.HTTP_503_SERVICE_UNAVAILABLE
    return status.HTTP_409_CONFLICT


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _html(template: str, *, status_code: int = status.HTTP_200_OK, **values: Any) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(template).render(values), status_code=status_code)
