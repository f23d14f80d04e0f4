"""What a run needs of Airflow and would silently wait for when it is missing; each has its own error."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines import ledger
from pipelines.errors import BadInput, StackError
from pipelines.settings import Settings
from pipelines.stack.airflow_api import AirflowApi
from pipelines.stack.waiting import wait_until

PARSED_SECONDS = 90.0
"""How long a DAG may take to appear after its spec was written; parsing begins every 5 s."""

UNHEALTHY_SECONDS = 120.0
"""How long a component of Airflow may be away during a run; the supervisor brings a killed one back sooner."""


def require_spec(settings: Settings, model: str) -> None:
    """Check that a model has a spec.

    Raises:
        BadInput: names the models that have one.
    """
    known = sorted(path.stem.replace("_", "-") for path in settings.models_dir.glob("*.yaml"))
    if model not in known:
        raise BadInput(f"model: {model!r} has no spec in {settings.models_dir}; known: {', '.join(known) or 'none'}")


def require_healthy(api: AirflowApi) -> None:
    """Check that scheduler, triggerer and DAG processor live: without one of them a run waits for ever, silently."""
    sick = unhealthy(api)
    if sick:
        raise StackError(f"Airflow's {', '.join(sick)} does not run; see `python -m pipelines status`, then `make up`")


def require_controller(settings: Settings) -> None:
    """Check that the controller lives: without it, a rollout waits for its first look until it times out."""
    silence = ledger.silence_seconds(settings.ledger_url(), since=0.0)
    if silence > UNHEALTHY_SECONDS:
        raise StackError("the controller does not run; see `python -m pipelines status`, then `make up`")


def unhealthy(api: AirflowApi) -> list[str]:
    """Return the components that show no recent sign of life."""
    health = api.health()
    needed = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return [name.replace("_", "-") for name in needed if health[name]["status"] != "healthy"]


def require_parsed(api: AirflowApi, dag_id: str) -> None:
    """Wait until Airflow knows a DAG and would run it.

    Raises:
        StackError: says why it would not: import error, paused, or never parsed.
    """

    def is_parsed() -> bool:
        dag = api.dag(dag_id)
        if dag is None or dag["is_stale"]:
            broken = api.import_errors()
            if broken:
                raise StackError(f"Airflow cannot load {dag_id}: {'; '.join(broken)}")
            return False
        if dag["is_paused"]:
            raise StackError(f"{dag_id} is paused, so its runs would wait; unpause it in Airflow's UI")
        return True

    wait_until(is_parsed, PARSED_SECONDS, f"Airflow does not list {dag_id}; see the log of airflow-dag-processor")


def require_pools(api: AirflowApi, dag_id: str) -> None:
    """Check that every pool exists that a DAG's tasks ask for: a task in a missing pool waits for ever, silently."""
    absent = sorted(pool for pool in api.task_pools(dag_id) if not api.has_pool(pool))
    if absent:
        raise StackError(
            f"{dag_id} needs the pool {', '.join(absent)}, which Airflow does not have; `make up` makes it"
        )


class HealthWatch:
    """Notices when a run cannot go on because a component of Airflow stays away; a short absence is tolerated."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sick_since: float | None = None

    def judge(self, sick: list[str]) -> None:
        """Take note of who is away now.

        Raises:
            StackError: when somebody has been away at every look for too long.
        """
        now = self._clock()
        if not sick:
            self._sick_since = None
            return
        if self._sick_since is None:
            self._sick_since = now
        if now - self._sick_since > UNHEALTHY_SECONDS:
            raise StackError(
                f"Airflow's {', '.join(sick)} has been away for {UNHEALTHY_SECONDS:.0f} s; the run cannot go on"
            )
