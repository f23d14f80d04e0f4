"""What Airflow would silently wait for is a plain error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.errors import BadInput, StackError
from pipelines.settings import Settings
from pipelines.stack.airflow_api import AirflowApi, topological
from pipelines.stack.readiness import (
    UNHEALTHY_SECONDS,
    HealthWatch,
    require_healthy,
    require_parsed,
    require_pools,
    require_spec,
)

HEALTHY = {name: {"status": "healthy"} for name in ("metadatabase", "scheduler", "triggerer", "dag_processor")}


def api(answers: dict[str, Any]) -> AirflowApi:
    """Return a client of an Airflow that knows only these paths."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        found = answers.get(request.url.path)
        return httpx.Response(404, json={"detail": "not found"}) if found is None else httpx.Response(200, json=found)

    return AirflowApi("http://airflow", "admin", "p", transport=httpx.MockTransport(answer))


def test_component_without_a_sign_of_life_is_named() -> None:
    require_healthy(api({"/api/v2/monitor/health": HEALTHY}))

    with pytest.raises(StackError, match=r"Airflow's triggerer does not run"):
        require_healthy(api({"/api/v2/monitor/health": {**HEALTHY, "triggerer": {"status": None}}}))


def test_paused_dag_is_an_error() -> None:
    with pytest.raises(StackError, match="lifecycle_x is paused"):
        require_parsed(api({"/api/v2/dags/lifecycle_x": {"is_stale": False, "is_paused": True}}), "lifecycle_x")


def test_dag_that_does_not_load_says_why() -> None:
    broken = {"import_errors": [{"filename": "lifecycle.py", "stack_trace": "Traceback\nNameError: nope"}]}

    with pytest.raises(StackError, match=r"lifecycle\.py: NameError: nope"):
        require_parsed(api({"/api/v2/importErrors": broken}), "lifecycle_x")


def test_missing_pool_is_named() -> None:
    answers = {
        "/api/v2/dags/lifecycle_x/tasks": {"tasks": [{"pool": "training"}, {"pool": "default_pool"}]},
        "/api/v2/pools/default_pool": {"name": "default_pool"},
    }

    with pytest.raises(StackError, match="needs the pool training"):
        require_pools(api(answers), "lifecycle_x")


def test_unknown_model_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "docs_gpt.yaml").touch()

    with pytest.raises(BadInput, match=r"'other' has no spec .*known: docs-gpt"):
        require_spec(Settings(models_dir=tmp_path), "other")


def test_refused_parameter_is_bad_input() -> None:
    transport = httpx.MockTransport(
        lambda request: (
            httpx.Response(201, json={"access_token": "t"})
            if request.url.path == "/auth/token"
            else httpx.Response(400, json={"detail": "max_steps: -1 is less than the minimum"})
        )
    )

    with pytest.raises(BadInput, match="max_steps: -1 is less"):
        AirflowApi("http://airflow", "admin", "p", transport=transport).trigger("lifecycle_x", {"max_steps": -1})


def test_tasks_come_after_those_that_they_follow() -> None:
    order = topological({"c": set(), "a": {"b", "c"}, "b": {"c"}})

    assert order == ["a", "b", "c"]


def test_short_absence_is_tolerated_and_a_long_one_is_not() -> None:
    clock = [0.0]
    watch = HealthWatch(clock=lambda: clock[0])

    for clock[0], sick in [
        (0.0, ["scheduler"]),
        (UNHEALTHY_SECONDS, ["scheduler"]),
        (200.0, []),
        (300.0, ["scheduler"]),
    ]:
        watch.judge(sick)

    clock[0] = 301.0 + UNHEALTHY_SECONDS
    with pytest.raises(StackError, match=r"Airflow's scheduler has been away"):
        watch.judge(["scheduler"])
