"""What runs, what does not, and where it answers."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from pipelines import ledger
from pipelines.errors import LedgerUnavailable
from pipelines.settings import Settings
from pipelines.stack import airflow, postgres
from pipelines.stack.layout import Layout
from pipelines.stack.ports import LOOPBACK
from pipelines.stack.programs import names
from pipelines.stack.supervisor import ProgramState, Supervisor

NOT_STARTED = "NOT STARTED"


def status(settings: Settings) -> bool:
    """Print a table of all programs; return whether every one of them runs."""
    layout = Layout.of(settings)
    supervisor = Supervisor(layout.supervisor_socket)
    states = supervisor.states() if supervisor.is_alive() else []
    known = {state.name for state in states}
    absent = [
        ProgramState(name=name, state=NOT_STARTED, pid=0, started=0.0) for name in names(settings) if name not in known
    ]
    rows = [*states, *absent]
    console = Console(width=None)
    console.print(table(rows, addresses(settings), now=time.time()))
    for line in serving(settings):
        console.print(line, highlight=False)
    return all(state.is_running for state in rows)


def serving(settings: Settings) -> list[str]:
    """Return a line for each service: what the ledger says is in production, and where it answers."""
    url = settings.ledger_url()
    try:
        services = [ledger.read_service(url, name) for name in ledger.list_services(url)]
    except LedgerUnavailable:
        return []
    return [
        f"{service.name}: version {service.champion.number} (digest {service.champion.model.short}) "
        f"at http://{LOOPBACK}:{service.port}"
        for service in services
        if service is not None and service.champion is not None
    ]


def table(states: list[ProgramState], addresses: dict[str, str], now: float) -> Table:
    """Return the table: program, state, pid, uptime, where it answers."""
    result = Table("program", "state", "pid", "uptime", "address", box=None, pad_edge=False)
    for state in states:
        uptime = duration(now - state.started) if state.is_running else ""
        result.add_row(state.name, state.state, str(state.pid or ""), uptime, addresses.get(state.name, ""))
    return result


def addresses(settings: Settings) -> dict[str, str]:
    """Return where the programs answer, by name."""
    return {
        "airflow-api-server": airflow.base_url(settings),
        postgres.NAME: str(Layout.of(settings).postgres_socket),
    }


def duration(seconds: float) -> str:
    """Return a duration for reading: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
