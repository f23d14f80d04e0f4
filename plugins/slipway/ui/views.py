"""What the page shows, in the words and numbers that its templates need; read from the ledger only."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow.models import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from pipelines import ledger
from pipelines.formats.headers import Traffic
from pipelines.ledger import Phase
from pipelines.release import report
from pipelines.release.evidence import exp
from pipelines.release.report import Point, Present, RolloutFacts
from slipway.specs import lifecycle_id
from slipway.ui.curve import Chart, chart
from slipway.ui.ordering import run_path
from slipway.ui.security import DAG_ID

NUM_EARLIER = 20
"""Rollouts in the history."""

_TRAFFIC = {Traffic.USER: "users", Traffic.SHADOW: "mirrored", Traffic.PINNED: "replayed"}


@dataclass(frozen=True)
class Step:
    """One weight on the way."""

    label: str
    state: str
    """`past`, `now` or `ahead`."""


@dataclass(frozen=True)
class Counted:
    """Requests and bad ones of one kind of traffic, as text."""

    traffic: str
    canary: str
    stable: str


@dataclass(frozen=True)
class Gauge:
    """A number against its limit, on a scale of logarithms."""

    value: str
    limit: str
    share: float
    """From 0 to 1."""


@dataclass(frozen=True)
class RolloutView:
    """A rollout, large: the one that runs, or the last one."""

    facts: RolloutFacts
    steps: tuple[Step, ...]
    counted: tuple[Counted, ...]
    against: Gauge
    evidence: Gauge
    chart: Chart | None
    is_over: bool


@dataclass(frozen=True)
class Row:
    """A rollout in the history."""

    facts: RolloutFacts
    opened: str
    took: str
    run_path: str
    """Address of its run in Airflow; empty when it was opened elsewhere."""

    return_to: int | None
    """Version that a button in this row returns to."""


@dataclass(frozen=True)
class ServiceView:
    """One service."""

    present: Present
    rollout: RolloutView | None
    rows: tuple[Row, ...]
    back_to: int | None
    """Version that the large button returns to, while nothing runs."""


class Curves:
    """Curves of rollouts that people look at; every look of the page reads only what is new: events never change."""

    def __init__(self) -> None:
        self._points: dict[int, tuple[Point, ...]] = {}
        self._lock = threading.Lock()

    def read(self, url: str, service: str, rollout_id: int) -> tuple[Point, ...]:
        """Return all points of a rollout."""
        with self._lock:
            known = self._points.get(rollout_id, ())
            after = known[-1].seq if known else 0
            points = known + report.curve(url, service, rollout_id, after)
            self._points[rollout_id] = points
            return points

    def keep_only(self, rollouts: set[int]) -> None:
        """Forget the others."""
        with self._lock:
            for rollout_id in self._points.keys() - rollouts:
                del self._points[rollout_id]


_curves = Curves()


def services(url: str) -> list[ServiceView]:
    """Return all services, by name.

    Raises:
        LedgerUnavailable: when the ledger is away.
    """
    found = [_service(url, name) for name in ledger.list_services(url)]
    _curves.keep_only({view.rollout.facts.id for view in found if view.rollout is not None})
    return found


def _service(url: str, name: str) -> ServiceView:
    present = report.present(url, name, NUM_EARLIER)
    shown = present.running or next(iter(present.earlier), None)
    older = [number for number in present.returns if present.serving is None or number < present.serving]
    return ServiceView(
        present=present,
        rollout=None if shown is None else _rollout(url, name, shown),
        rows=_rows(present),
        back_to=older[0] if older and present.running is None else None,
    )


def _rollout(url: str, service: str, facts: RolloutFacts) -> RolloutView:
    points = _curves.read(url, service, facts.id)
    standing = facts.standing
    return RolloutView(
        facts=facts,
        steps=_steps(facts, points),
        counted=tuple(_counted(facts)),
        against=_gauge(standing.log_e, standing.log_limit),
        evidence=_gauge(standing.log_evidence, standing.log_needed),
        chart=chart(points, standing.log_limit, standing.log_needed),
        is_over=facts.ended_at is not None,
    )


def _steps(facts: RolloutFacts, points: tuple[Point, ...]) -> tuple[Step, ...]:
    """Return the weights, with the present one lit; what a rollout that went back had reached stays marked."""
    is_here = facts.ended_at is None and facts.phase != Phase.ROLLING_BACK
    reached = 100.0 if facts.phase == Phase.PROMOTED else max((facts.weight, *(point.weight for point in points)))

    def state(weight: int) -> str:
        if is_here and weight == facts.weight:
            return "now"
        return "past" if weight <= reached else "ahead"

    weights = () if facts.is_direct or facts.replaces is None else facts.weights
    return tuple(Step(f"{weight} %", state(weight)) for weight in (*weights, 100))


def _counted(facts: RolloutFacts) -> Iterable[Counted]:
    for traffic, label in _TRAFFIC.items():
        arms = [facts.exposures.get(f"{arm}/{traffic}") for arm in ("canary", "stable")]
        if any(arms):
            texts = ["–" if counts is None else f"{counts[1]:,} bad of {counts[0]:,}" for counts in arms]
            yield Counted(label, *texts)


def _gauge(log: float, log_limit: float) -> Gauge:
    share = min(1.0, max(0.0, log / log_limit))
    return Gauge(exp(log), exp(log_limit), round(share, 3))


def _rows(present: Present) -> tuple[Row, ...]:
    everything = [rollout for rollout in (present.running, *present.earlier) if rollout is not None]
    paths = _run_paths(present.service, [rollout.run_id for rollout in everything])
    offered = set(present.returns) if present.running is None else set()
    rows = []
    for rollout in everything:
        rows.append(
            Row(
                facts=rollout,
                opened=datetime.fromtimestamp(rollout.opened_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
                took="" if rollout.ended_at is None else duration(rollout.ended_at - rollout.opened_at),
                run_path=paths.get(rollout.run_id, ""),
                return_to=rollout.version if rollout.version in offered else None,
            )
        )
        offered.discard(rollout.version)
    return tuple(rows)


def _run_paths(service: str, run_ids: list[str]) -> dict[str, str]:
    """Return where Airflow shows the runs that it has; the others were opened from a terminal."""
    dags = (lifecycle_id(service), DAG_ID)
    query = select(DagRun.dag_id, DagRun.run_id).where(DagRun.dag_id.in_(dags), DagRun.run_id.in_(run_ids))
    with create_session() as session:
        return {run_id: run_path(dag_id, run_id) for dag_id, run_id in session.execute(query)}


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
