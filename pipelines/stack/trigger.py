"""Trigger a model's DAG, follow the run to its end, and find out by asking whether the model serves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from pipelines import ledger
from pipelines.errors import LedgerUnavailable, SlipwayError
from pipelines.release.report import facts
from pipelines.settings import Settings
from pipelines.stack import airflow
from pipelines.stack.airflow_api import AirflowApi, AirflowAway, TaskInstance
from pipelines.stack.layout import Layout, tail
from pipelines.stack.progress import WORKING, View, choose_view, describe, rows
from pipelines.stack.readiness import (
    HealthWatch,
    require_controller,
    require_healthy,
    require_parsed,
    require_pools,
    require_spec,
    unhealthy,
)
from pipelines.stack.summary import Summary, ask, summarise
from pipelines.step import RunInfo
from pipelines.store import Store

LOOK_SECONDS = 1.0
FINAL = frozenset({"success", "failed"})


class RunFailed(SlipwayError):
    """A run of the lifecycle ended red."""


def trigger_and_follow(settings: Settings, model: str, params: Mapping[str, object]) -> Summary:
    """Trigger a model's lifecycle, show its progress, print the summary and ask the endpoint.

    Raises:
        BadInput: when there is no such model or a param is refused.
        StackError: when a part of Airflow that the run needs is missing.
        RunFailed: when the run ended red, or the endpoint does not answer with the released digest.
    """
    run_id = trigger(settings, model, params)
    print(f"Run {run_id} of {model}: {run_url(settings, model, run_id)}", flush=True)
    state = follow(settings, model, run_id)
    if state != "success":
        raise RunFailed(f"run {run_id} of {model} ended {state}; the failed tasks above say why")
    summary = summarise(Store(settings.store_url()), model, run_id)
    answer = ask(summary)
    print(summary.text(answer))
    print(f"Airflow     {airflow.base_url(settings)}  {airflow.credentials(settings)}", flush=True)
    return summary


def trigger(settings: Settings, model: str, params: Mapping[str, object]) -> str:
    """Start a run of a model's lifecycle and return its run id; first check what Airflow would silently wait for."""
    require_spec(settings, model)
    api = AirflowApi.of(settings)
    dag_id = dag_of(model)
    require_healthy(api)
    require_controller(settings)
    require_parsed(api, dag_id)
    require_pools(api, dag_id)
    return api.trigger(dag_id, params)


def follow(settings: Settings, model: str, run_id: str) -> str:
    """Show a run's progress until it has ended; return Airflow's word for how."""
    api, watch = AirflowApi.of(settings), HealthWatch()
    with choose_view(Console()) as view:
        run = FollowedRun(settings, api, model, run_id, view)
        while True:
            try:
                state = run.look()
                if state in FINAL:
                    return state
                watch.judge(unhealthy(api))
            except AirflowAway:
                watch.judge(["api-server"])
            except LedgerUnavailable:
                watch.judge(["ledger"])
            time.sleep(LOOK_SECONDS)


class FollowedRun:
    """One run that is shown to a person; remembers which failures were told."""

    def __init__(self, settings: Settings, api: AirflowApi, model: str, run_id: str, view: View) -> None:
        self._settings, self._api, self._model, self._run_id, self._view = settings, api, model, run_id, view
        self._dag_id = dag_of(model)
        self._store = Store(settings.store_url())
        self._order: list[str] = []
        self._told: set[tuple[str, int]] = set()
        self._state = ""

    def look(self) -> str:
        """Show the run as it is now; return its state."""
        self._order = self._order or self._api.task_order(self._dag_id)
        state = self._api.run_state(self._dag_id, self._run_id)  # before the tasks: then these are final when it is
        if state == "queued" and self._state == "":
            self._view.say("The run is queued; runs of one model go one after another.")
        self._state = state
        instances = self._api.task_instances(self._dag_id, self._run_id)
        details = {instance.task_id: self._where(instance) for instance in instances if instance.state in WORKING}
        self._view.update(rows(instances, self._order, details, datetime.now(UTC)))
        for instance in instances:
            attempt = (instance.task_id, instance.try_number)
            if instance.state in ("failed", "up_for_retry") and attempt not in self._told:
                self._told.add(attempt)
                tell_failure(self._view, self._settings, self._dag_id, self._run_id, instance)
        return state

    def _where(self, instance: TaskInstance) -> str:
        """Return how far a running task is, in words."""
        if not instance.task_id.startswith("rollout."):
            return describe(report(self._store, self._model, self._run_id, instance))
        rollout = ledger.find_rollout(self._settings.ledger_url(), self._model, self._run_id)
        return "" if rollout is None else facts(rollout).line()


def dag_of(model: str) -> str:
    """Return the id of a model's DAG: `docs-gpt` has `lifecycle_docs_gpt`."""
    return f"lifecycle_{model.replace('-', '_')}"


def run_url(settings: Settings, model: str, run_id: str) -> str:
    """Return the address of a run in Airflow's UI."""
    return f"{airflow.base_url(settings)}/dags/{dag_of(model)}/runs/{quote(run_id, safe='')}"


def report(store: Store, model: str, run_id: str, instance: TaskInstance) -> dict[str, float]:
    """Return the numbers that a running task has left in the store; those of an earlier try do not count."""
    info = RunInfo(model=model, run_id=run_id, task_id=instance.task_id)
    data = store.read(info.progress_uri)
    if data is None:
        return {}
    numbers: dict[str, Any] = json.loads(data)
    if instance.start and numbers.get("at", 0) < instance.start.timestamp():
        return {}
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}


def tell_failure(view: View, settings: Settings, dag_id: str, run_id: str, instance: TaskInstance) -> None:
    """Print the last lines of a failed try's log, and where all of it is."""
    log = log_path(settings, dag_id, run_id, instance)
    outlook = "will be tried again" if instance.state == "up_for_retry" else "failed"
    view.say(f"\n{instance.task_id}: try {instance.try_number} {outlook}; the end of {log}:")
    view.say("\n".join(f"    {text}" for text in log_lines(log)))


def log_path(settings: Settings, dag_id: str, run_id: str, instance: TaskInstance) -> Path:
    """Return where Airflow writes the log of a task's try."""
    folder = Layout.of(settings).airflow_home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
    return folder / f"task_id={instance.task_id}" / f"attempt={instance.try_number}.log"


def log_lines(path: Path, count: int = 15) -> list[str]:
    """Return the last messages of a task's log; Airflow writes one JSON object per line."""
    lines: list[str] = []
    for text in tail(path, lines=200).splitlines():
        try:
            entry = json.loads(text)
        except ValueError:
            lines.append(text)
            continue
        lines.extend(str(entry.get("event", text)).splitlines())
        lines.extend(
            f"{problem.get('exc_type')}: {problem.get('exc_value')}" for problem in entry.get("error_detail") or []
        )
    return lines[-count:] or ["(no log was written)"]
