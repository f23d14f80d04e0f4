"""The real stack under faults while a quarter of the users are on a candidate: each ends promoted or rolled back.

`make faults` runs all of them. The users' own ledger of requests is the judge.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy
import yaml

from pipelines import ledger
from pipelines.errors import LedgerUnavailable
from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.stack import airflow
from pipelines.stack.airflow_api import AirflowApi, AirflowAway
from pipelines.stack.layout import Layout
from pipelines.stack.supervisor import Supervisor
from tests.e2e.conftest import RUN_SECONDS, LocalStack, wait_for
from tests.load.client import Exchange, read_ledger
from tests.load.demo import users

MODEL = "faults"
DAG = f"lifecycle_{MODEL}"
REACHED_SECONDS = 300
ENDED_SECONDS = 240
PERMIT_SECONDS = 60
"""Longer than Airflow needs to start one of its components again, and to find the tasks of a dead one."""

NO_OUTAGE = 0.0
ENVOY_OUTAGE = 5.0
"""3 s on a quiet machine."""

STABLE_OUTAGE = 60.0
"""Until the old version's process is ready again."""

RULES: dict[str, Any] = {
    "weights": [25],
    "look_seconds": 0.5,
    "shadow_seconds": 2,
    "bake_seconds": 10,
    "bake_full_seconds": 2,
    "unready_seconds": 90,
    "permit_timeout_seconds": PERMIT_SECONDS,
}


@dataclass
class Release:
    """A candidate that a quarter of the users are on."""

    stack: LocalStack
    endpoint: str
    run_id: str
    rollout: Rollout
    api: Operations
    undo: list[Callable[[], None]] = field(default_factory=list)

    def latest(self) -> Rollout:
        return ledger.read_rollout(self.stack.settings.ledger_url(), self.rollout.id)

    def supervisor(self) -> Supervisor:
        return Supervisor(Layout.of(self.stack.settings).supervisor_socket)

    def is_serving(self, digest: str) -> bool:
        """Say whether a model answers, and alone."""
        try:
            answers = [httpx.get(f"{self.endpoint}/provenance", trust_env=False, timeout=5) for _ in range(10)]
        except httpx.HTTPError:
            return False
        return {answer.headers.get("X-Slipway-Digest") for answer in answers} == {digest}


class Operations(AirflowApi):
    """What people do to runs and DAGs in Airflow's UI."""

    def mark_failed(self, run_id: str) -> None:
        self._request("PATCH", f"/api/v2/dags/{DAG}/dagRuns/{run_id}", json={"state": "failed"})

    def pause(self, is_paused: bool) -> None:
        self._request("PATCH", f"/api/v2/dags/{DAG}", json={"is_paused": is_paused})

    def delete(self) -> None:
        self._request("DELETE", f"/api/v2/dags/{DAG}")


def kill_group(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def kill_program(name: str) -> Callable[[Release], None]:
    """Return a fault that kills a supervised program, whose process must come back."""

    def kill(release: Release) -> None:
        before = release.stack.states()[name].pid
        kill_group(before)
        wait_for(lambda: release.stack.states()[name].pid not in (0, before), 60, f"{name} is started again")

    return kill


def kill_stable(release: Release) -> None:
    assert release.rollout.stable is not None
    kill_program(release.rollout.stable.copy_name)(release)


def kill_canary(release: Release) -> None:
    kill_program(release.rollout.candidate.copy_name)(release)


def kill_canarys_worker(release: Release) -> None:
    """Kill the worker alone: its supervisor holds the socket, so that connections succeed and nobody answers."""
    leader = psutil.Process(release.stack.states()[release.rollout.candidate.copy_name].pid)
    workers = [process for process in leader.children(recursive=True) if not process.children()]
    assert workers
    for worker in workers:
        worker.kill()


def mark_failed(release: Release) -> None:
    release.api.mark_failed(release.run_id)


def run_out_of_time(release: Release) -> None:
    """Let the run have begun a day ago; the spec gives it an hour."""
    engine = sqlalchemy.create_engine(airflow.database_url(release.stack.settings))
    with engine.begin() as connection:
        earlier = "UPDATE dag_run SET start_date = start_date - interval '1 day' WHERE run_id = :run"
        assert connection.execute(sqlalchemy.text(earlier), {"run": release.run_id}).rowcount == 1
    engine.dispose()
    wait_for(lambda: release.api.run_state(DAG, release.run_id) == "failed", 60, "Airflow ends the run")


def pause_dag(release: Release) -> None:
    release.api.pause(True)
    release.undo.append(lambda: release.api.pause(False))


def delete_dag(release: Release) -> None:
    """Take the spec away and delete what Airflow knows of it."""
    spec = release.stack.settings.models_dir / f"{MODEL}.yaml"
    content = spec.read_text()
    spec.unlink()
    release.undo.append(lambda: give_back(release, spec, content))
    release.api.delete()
    wait_for(lambda: release.api.dag(DAG) is None, 60, "the DAG is gone")


def give_back(release: Release, spec: Path, content: str) -> None:
    spec.write_text(content)
    wait_for(lambda: release.api.dag(DAG) is not None, 120, "the DAG is back")


def stop_airflow(release: Release) -> None:
    names = [program.name for program in airflow.programs()]
    for name in names:
        release.supervisor().stop(name)
    release.undo.append(lambda: start_airflow(release, names))


def start_airflow(release: Release, names: list[str]) -> None:
    for name in names:
        release.supervisor().start(name)
    wait_for(lambda: is_healthy(release.api), 120, "Airflow is back")


def is_healthy(api: Operations) -> bool:
    try:
        return all(part["status"] in ("healthy", None) for part in api.health().values())
    except AirflowAway:
        return False


def do_nothing(_release: Release) -> None:
    """Be the control."""


PROMOTED = frozenset({Outcome.PROMOTED})
ABORTED = frozenset({Outcome.ABORTED})
EITHER = PROMOTED | ABORTED
JUDGED = frozenset({Outcome.PROMOTED, Outcome.WORSE, Outcome.UNHEALTHY})
"""A candidate that died may count as worse: that is what the rule is for."""

FAULTS = [
    pytest.param(do_nothing, PROMOTED, NO_OUTAGE, id="control"),
    pytest.param(kill_program("controller"), PROMOTED, NO_OUTAGE, id="controller"),
    pytest.param(kill_program("airflow-scheduler"), PROMOTED, NO_OUTAGE, id="scheduler"),
    pytest.param(kill_program("airflow-triggerer"), PROMOTED, NO_OUTAGE, id="triggerer"),
    pytest.param(kill_program("envoy"), PROMOTED, ENVOY_OUTAGE, id="envoy"),
    pytest.param(kill_program("postgres"), EITHER, NO_OUTAGE, id="postgres"),
    pytest.param(kill_stable, PROMOTED, STABLE_OUTAGE, id="stable"),
    pytest.param(kill_canary, JUDGED, NO_OUTAGE, id="canary"),
    pytest.param(kill_canarys_worker, JUDGED, NO_OUTAGE, id="canarys-worker-alone"),
    pytest.param(mark_failed, ABORTED, NO_OUTAGE, id="run-marked-failed"),
    pytest.param(run_out_of_time, ABORTED, NO_OUTAGE, id="run-timed-out"),
    pytest.param(pause_dag, EITHER, NO_OUTAGE, id="dag-paused"),
    pytest.param(stop_airflow, ABORTED, NO_OUTAGE, id="airflow-stopped"),
    pytest.param(delete_dag, ABORTED, NO_OUTAGE, id="dag-deleted"),
]


@pytest.fixture(scope="module")
def endpoint(stack: LocalStack) -> Iterator[str]:
    """Return the address of a service that has a version in production, and whose rules leave time for faults."""
    spec = stack.settings.models_dir / f"{MODEL}.yaml"
    content = yaml.safe_load((stack.settings.models_dir / "tiny.yaml").read_text())
    content["rollout"] |= RULES
    spec.write_text(yaml.safe_dump(content | {"run_timeout_seconds": 3600}))
    first = stack.run("run", "--spec", str(spec), timeout=RUN_SECONDS)
    assert first.returncode == 0, first.stdout
    api = AirflowApi.of(stack.settings)
    wait_for(lambda: api.dag(DAG) is not None, 120, "Airflow knows the DAG")
    service = ledger.read_service(stack.settings.ledger_url(), MODEL)
    assert service is not None
    yield f"http://127.0.0.1:{service.port}"
    spec.unlink(missing_ok=True)


@pytest.fixture
def release(stack: LocalStack, endpoint: str, request: pytest.FixtureRequest) -> Iterator[Release]:
    """Bring another candidate to a quarter of the users."""
    url, api = stack.settings.ledger_url(), Operations.of(stack.settings)
    number = len(ledger.list_rollouts(url, MODEL))
    run_id = api.trigger(DAG, {"seed": 100 + number, "max_steps": 20 + number, "note": request.node.name})

    def is_at_weight() -> bool:
        found = ledger.find_rollout(url, MODEL, run_id)
        return found is not None and found.state.phase is Phase.STEP and found.state.confirmed_bp == 2500

    wait_for(is_at_weight, REACHED_SECONDS, "a candidate at a quarter of the users")
    rollout = ledger.find_rollout(url, MODEL, run_id)
    assert rollout is not None
    found = Release(stack, endpoint, run_id, rollout, api)
    yield found
    for undo in found.undo:
        undo()


@pytest.mark.slow
@pytest.mark.parametrize(("inflict", "outcomes", "outage_seconds"), FAULTS)
def test_a_fault_at_a_quarter_of_the_users_strands_nothing(
    release: Release,
    tmp_path: Path,
    inflict: Callable[[Release], None],
    outcomes: frozenset[Outcome],
    outage_seconds: float,
) -> None:
    url, record = release.stack.settings.ledger_url(), tmp_path / "users.jsonl"
    with users(release.endpoint, record, rate=8):
        inflicted_at = time.time()
        inflict(release)
        wait_for(lambda: is_over(release), ENDED_SECONDS, "the rollout ends")
        champion = ledger.champion(url, MODEL)
        assert champion is not None
        wait_for(lambda: release.is_serving(champion.model.digest), 60, "the champion serves alone")
    ended = release.latest()
    failed = [exchange for exchange in read_ledger(record) if not exchange.is_good]
    print(f"{ended}: {ended.state.outcome}, {len(failed)} requests without an answer within {span(failed):.1f} s")

    assert ended.state.outcome in outcomes, ended.state
    assert champion == (ended.candidate if ended.state.phase is Phase.PROMOTED else ended.stable)
    assert all(inflicted_at - 1 <= exchange.at <= inflicted_at + outage_seconds for exchange in failed), failed[:5]
    assert ledger.verify_chain(url, MODEL) > 0
    copies = {name for name in release.stack.states() if name.startswith(f"{MODEL}-")}
    assert copies == {champion.copy_name}


def is_over(release: Release) -> bool:
    """Say whether the rollout has ended; a ledger that is away says nothing."""
    try:
        return release.latest().state.is_final
    except LedgerUnavailable:
        return False


def span(failed: list[Exchange]) -> float:
    """Return the seconds between the first and the last request without an answer."""
    times = [exchange.at for exchange in failed] or [0.0]
    return max(times) - min(times)
