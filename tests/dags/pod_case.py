"""One step's operator against a cluster: what Airflow calls, without Airflow's database."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import runner, step
from pipelines.settings import Settings
from tests.airflow_case import FAKE_STEP, ROOT
from tests.cluster import Cluster
from tests.cluster.selectors import Object

SPEC = "tiny.yaml"


@dataclass
class TaskInstance:
    """What an operator asks of its task instance; remembers what it was told to keep."""

    try_number: int = 1
    max_tries: int = 3
    run_id: str = "manual__1"
    task_id: str = "freeze"
    dag_id: str = "lifecycle_tiny"
    map_index: int = -1
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))
    kept: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.kept[key] = value


@dataclass
class PodCase:
    """An installation on a cluster, whose first step's process does what the test tells it."""

    cluster: Cluster
    settings: Settings
    told: Path
    step: str = "freeze"
    """The step that the task runs."""

    def tell(self, **behaviour: Any) -> None:
        """Say what the step's process does, as `tests/fake_step.py` has it."""
        self.told.write_text(json.dumps({self.step: behaviour}), encoding="utf-8")

    def write_spec(self, **resources: Any) -> None:
        """Write the spec file with what the first step's pod gets."""
        content = {"resources": {"freeze": {"grace_seconds": 1, **resources}}}
        (self.settings.models_dir / SPEC).write_text(json.dumps(content), encoding="utf-8")

    def operator(self, **arguments: Any) -> Any:
        """Return the operator as a DAG file makes it."""
        from slipway.pods.operator import StepPodOperator

        return StepPodOperator(task_id="freeze", model="tiny", spec_file=SPEC, retries=3, **arguments)

    def context(self, ti: TaskInstance, **params: Any) -> Any:
        """Return what Airflow hands to an operator."""
        return {"ti": ti, "run_id": ti.run_id, "dag": SimpleNamespace(), "params": params, "outlet_events": {}}

    def run(self, ti: TaskInstance | None = None, *, deferrable: bool = True, **params: Any) -> dict[str, Any]:
        """Run the task to its end, resuming it as Airflow does, and return the receipt that it keeps."""
        from airflow.sdk.exceptions import TaskDeferred

        ti = ti or TaskInstance()
        context = self.context(ti, **params)
        try:
            self.operator(deferrable=deferrable).execute(context)
        except TaskDeferred as deferred:
            self.resume(deferred, context)
        receipt: dict[str, Any] = ti.kept["return_value"]
        return receipt

    def resume(self, deferred: Any, context: Any) -> None:
        """Wait with the trigger, in the form in which the database keeps it, and go on in a new operator."""
        from airflow.sdk.exceptions import TaskDeferred

        while True:
            event = asyncio.run(self.fired(again(deferred.trigger)))
            try:
                getattr(self.operator(), deferred.method_name)(context, event)
            except TaskDeferred as more:
                deferred = more
            else:
                return

    async def fired(self, trigger: Any) -> dict[str, Any]:
        """Return the first event of a trigger."""
        async for event in trigger.run():
            payload: dict[str, Any] = event.payload
            return payload
        raise AssertionError("the trigger never fired")

    def the_pod(self) -> Object | None:
        """Return the step's pod, None while there is none."""
        return next(iter(self.cluster.pods()), None)

    def phase(self) -> str:
        """Return the phase of the step's pod."""
        pod = self.the_pod()
        return "" if pod is None else str(pod["status"].get("phase"))


def again(trigger: Any) -> Any:
    """Return a trigger made anew from what is stored of it, as the triggerer does."""
    path, arguments = trigger.serialize()
    kind = type(trigger)
    assert path == f"{kind.__module__}.{kind.__name__}"
    return kind(**arguments)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give the tests of a module one cluster."""
    with Cluster() as made:
        made.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "slipway-step"}})
        yield made


@pytest.fixture
def case(airflow_home: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodCase]:
    """Give one test an installation of its own on the module's cluster, which must be empty afterwards."""
    (tmp_path / "models").mkdir()
    enter(cluster, tmp_path, monkeypatch)
    made = PodCase(cluster, Settings(), tmp_path / "told.json")
    made.write_spec()
    made.tell()
    monkeypatch.setattr(runner.StepTry, "arguments", fake_arguments(made.told))
    yield made
    for pod in cluster.pods():
        cluster.delete(pod, seconds=0)


def enter(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, as worker and as triggerer, belong to an installation on a cluster."""
    for name, value in environment(cluster, folder).items():
        monkeypatch.setenv(name, value)


def environment(cluster: Cluster, folder: Path) -> Mapping[str, str]:
    """Return the variables of an installation on a cluster."""
    return {
        "KUBECONFIG": str(cluster.kubeconfig),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": '{"conn_type": "kubernetes"}',
        "SLIPWAY_PLATFORM": "kubernetes",
        "SLIPWAY_HOME": str(folder / "home"),
        "SLIPWAY_STORE": f"file://{folder / 'store'}",
        "SLIPWAY_MODELS_DIR": str(folder / "models"),
    }


def fake_arguments(told: Path) -> property:
    """Return a `StepTry.arguments` that starts the fake instead of the product, with the product's own arguments."""

    def arguments(self: runner.StepTry) -> list[str]:
        own = step.command(self._name, self._spec_uri, self._info)[2:]
        return ["-S", str(FAKE_STEP), os.path.relpath(told, ROOT), *own]  # a path below /tmp is the pod's own there

    return property(arguments)
