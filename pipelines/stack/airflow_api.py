"""Airflow's REST API, as far as the stack and the trigger use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from pipelines.errors import BadInput, StackError
from pipelines.settings import Settings
from pipelines.stack import airflow
from pipelines.stack.layout import Layout


class AirflowAway(StackError):
    """Airflow does not answer at present; a busy or restarted one soon does."""


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run as Airflow sees it."""

    task_id: str
    state: str
    """Airflow's word; `none` before the scheduler has looked at it."""
    try_number: int
    start: datetime | None
    end: datetime | None
    map_index: int = -1


class AirflowApi:
    """Client of one Airflow; logs in on the first call that needs it."""

    def __init__(self, url: str, user: str, password: str, transport: httpx.BaseTransport | None = None) -> None:
        self._user, self._password = user, password
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False, transport=transport)
        self._token = ""

    @classmethod
    def of(cls, settings: Settings) -> AirflowApi:
        """Return a client of the local stack's Airflow."""
        secrets = airflow.Secrets.load(Layout.of(settings))
        return cls(airflow.base_url(settings), airflow.USER, secrets.password)

    def health(self) -> dict[str, dict[str, str | None]]:
        """Return status and latest heartbeat by component; needs no login."""
        try:
            response = self._client.get("/api/v2/monitor/health")
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        return dict(self._checked(response).json())

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """Return a DAG's description, or None while Airflow does not know it."""
        found = self._get_or_none(f"/api/v2/dags/{_quoted(dag_id)}")
        return None if found is None else dict(found)

    def import_errors(self) -> list[str]:
        """Return what went wrong while DAG files were parsed, one text per file."""
        rows = self._get("/api/v2/importErrors")["import_errors"]
        return [f"{row['filename']}: {row['stack_trace'].strip().splitlines()[-1]}" for row in rows]

    def ensure_pool(self, name: str, slots: int) -> None:
        """Make a pool; one that is there keeps the slots that somebody may have given it."""
        if not self.has_pool(name):
            self._request("POST", "/api/v2/pools", json={"name": name, "slots": slots})

    def has_pool(self, name: str) -> bool:
        """Say whether a pool exists."""
        return self._get_or_none(f"/api/v2/pools/{_quoted(name)}") is not None

    def task_pools(self, dag_id: str) -> set[str]:
        """Return the pools that a DAG's tasks ask for."""
        return {str(task["pool"]) for task in self._get(f"/api/v2/dags/{_quoted(dag_id)}/tasks")["tasks"]}

    def task_order(self, dag_id: str) -> list[str]:
        """Return a DAG's task ids so that every task comes after those that it follows."""
        tasks = self._get(f"/api/v2/dags/{_quoted(dag_id)}/tasks")["tasks"]
        return topological({str(task["task_id"]): set(task["downstream_task_ids"]) for task in tasks})

    def trigger(self, dag_id: str, params: Mapping[str, object]) -> str:
        """Start a run and return its `run_id`.

        Raises:
            BadInput: when the DAG's params refuse a value.
        """
        body = {"logical_date": None, "conf": dict(params)}
        return str(self._request("POST", f"/api/v2/dags/{_quoted(dag_id)}/dagRuns", json=body).json()["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: queued, running, success or failed."""
        return str(self._get(f"/api/v2/dags/{_quoted(dag_id)}/dagRuns/{_quoted(run_id)}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the tasks of a run."""
        path = f"/api/v2/dags/{_quoted(dag_id)}/dagRuns/{_quoted(run_id)}/taskInstances"
        return [
            TaskInstance(
                task_id=row["task_id"],
                state=row["state"] or "none",
                try_number=row["try_number"],
                start=_time(row["start_date"]),
                end=_time(row["end_date"]),
                map_index=row["map_index"],
            )
            for row in self._get(path, limit=1000)["task_instances"]
        ]

    def _get(self, path: str, **query: Any) -> Any:
        return self._request("GET", path, params=query).json()

    def _get_or_none(self, path: str) -> Any:
        response = self._send("GET", path)
        return None if response.status_code == httpx.codes.NOT_FOUND else self._checked(response).json()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self._checked(self._send(method, path, **arguments))

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if not self._token:
            self._login()
        try:
            response = self._client.request(method, path, headers=self._headers(), **arguments)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._login()
                response = self._client.request(method, path, headers=self._headers(), **arguments)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        return response

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def _login(self) -> None:
        try:
            response = self._client.post("/auth/token", json={"username": self._user, "password": self._password})
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        self._token = str(self._checked(response).json()["access_token"])

    def _unreachable(self, error: Exception) -> AirflowAway:
        return AirflowAway(f"Airflow does not answer on {self._client.base_url}: {error}; is the stack up? (`make up`)")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        detail = _detail(response)
        if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            raise BadInput(f"Airflow refused the request: {detail}")
        raise StackError(f"Airflow answered {response.status_code} on {response.request.url.path}: {detail}")


def topological(downstream: Mapping[str, set[str]]) -> list[str]:
    """Return the nodes of a graph so that each comes before those downstream of it."""
    from graphlib import TopologicalSorter

    sorter: TopologicalSorter[str] = TopologicalSorter({node: set() for node in downstream})
    for node, followers in downstream.items():
        for follower in followers:
            sorter.add(follower, node)
    return list(sorter.static_order())


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json().get("detail", response.text))
    except ValueError:
        return response.text[:500]
