"""Start supervisord and, as soon as what each one needs is there, the programs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pipelines import ledger
from pipelines.errors import StackError
from pipelines.release.local import envoy
from pipelines.settings import REPOSITORY, Settings
from pipelines.stack import airflow, postgres
from pipelines.stack.airflow_api import AirflowApi
from pipelines.stack.layout import Layout, tail, write_private
from pipelines.stack.processes import Identity
from pipelines.stack.programs import CONTROLLER, ENVOY, environment, names, programs
from pipelines.stack.supervisor import Supervisor, configuration
from pipelines.stack.waiting import wait_until

START_SECONDS = 300.0
MAX_STARTS = 4
"""A program that was started so often while we waited will not come up by itself."""


def start_supervisor(settings: Settings, supervisor: Supervisor) -> None:
    """Write every configuration file and start supervisord, which starts nothing by itself."""
    layout = Layout.of(settings)
    layout.make()
    if postgres.is_wanted(settings):
        postgres.prepare(layout)
    airflow.write_configuration(settings)
    envoy.bootstrap_path(settings)
    user = "root" if postgres.runs_as_root() else ""
    write_private(layout.supervisor_conf, configuration(layout, programs(settings), user))
    output = layout.logs / "supervisord.out"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(layout.supervisor_conf)],
            env=environment(settings),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    Identity.of(process.pid, [settings.airflow_port]).save(layout.supervisor_identity)

    def answers() -> bool:
        if process.poll() is not None:
            raise StackError(f"supervisord ended with {process.returncode}: {tail(output)}")
        return supervisor.is_alive()

    wait_until(answers, START_SECONDS, "supervisord does not answer on its socket")


def start_programs(settings: Settings, supervisor: Supervisor) -> None:
    """Start what does not run yet, databases first, then ledger and Airflow side by side; return when all is well."""
    began = datetime.now(UTC)
    supervisor.start(ENVOY)
    if postgres.is_wanted(settings):
        _start_postgres(settings, supervisor)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(start, settings, supervisor) for start in (_start_airflow, _start_controller)]:
            done.result()
    api = AirflowApi.of(settings)
    _wait(settings, supervisor, lambda: _is_healthy(api, began), "Airflow is not healthy")
    for name, slots in airflow.POOLS.items():
        api.ensure_pool(name, slots)
    _wait(settings, supervisor, lambda: not missing(settings, supervisor), "a program does not run")


def _start_postgres(settings: Settings, supervisor: Supervisor) -> None:
    layout = Layout.of(settings)
    supervisor.start(postgres.NAME)
    _wait(settings, supervisor, lambda: postgres.accepts_connections(layout), "Postgres does not accept connections")
    postgres.create_databases(layout)


def _start_airflow(settings: Settings, supervisor: Supervisor) -> None:
    airflow.migrate(settings, environment(settings))
    for name in airflow.COMPONENTS:
        supervisor.start(name)


def _start_controller(settings: Settings, supervisor: Supervisor) -> None:
    url = settings.ledger_url()
    ledger.migrate(url)
    supervisor.start(CONTROLLER)
    started = time.monotonic()

    def has_beaten() -> bool:
        return ledger.silence_seconds(url, since=0.0) < time.monotonic() - started

    _wait(settings, supervisor, has_beaten, "the controller shows no sign of life")


def missing(settings: Settings, supervisor: Supervisor) -> list[str]:
    """Return the programs that should run and do not."""
    running = {state.name for state in supervisor.states() if state.is_running}
    return [name for name in names(settings) if name not in running]


def _is_healthy(api: AirflowApi, since: datetime) -> bool:
    """Say whether every component has given a sign of life since a moment; older ones are a predecessor's."""
    try:
        health = api.health()
    except StackError:
        return False
    for component in ("scheduler", "triggerer", "dag_processor"):
        heartbeat = health[component].get(f"latest_{component}_heartbeat")
        if health[component]["status"] != "healthy" or not heartbeat or datetime.fromisoformat(heartbeat) < since:
            return False
    return True


def _wait(settings: Settings, supervisor: Supervisor, condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition; give up early when a program of the stack ends again and again.

    Raises:
        StackError: names the program, with the end of its log.
    """
    layout = Layout.of(settings)
    seen: dict[str, set[int]] = {name: set() for name in names(settings)}

    def check() -> bool:
        for state in supervisor.states():
            if state.name in seen:
                seen[state.name].add(state.pid)
                if len(seen[state.name] - {0}) > MAX_STARTS or state.state == "FATAL":
                    log = layout.logs / f"{state.name}.log"
                    raise StackError(f"{state.name} ends as soon as it has started; the end of {log}:\n{tail(log)}")
        return condition()

    wait_until(check, START_SECONDS, otherwise)
