"""A training on several nodes against a cluster: what Airflow calls, without Airflow's database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipelines import artifacts, labels
from pipelines.spec import ModelSpec
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store
from tests.cluster.kinds import JOB, POD, SERVICE
from tests.cluster.selectors import Object
from tests.dags.pod_case import PodCase, TaskInstance
from tests.steps.live import wait_for

NUM_NODES = 2


@dataclass
class TrainingCase(PodCase):
    """An installation on a cluster whose spec wants a training on two nodes."""

    step: str = "train"
    receipts: dict[str, Receipt] = field(default_factory=dict)
    """What earlier tasks left, by step."""

    def operator(self, **arguments: Any) -> Any:
        from slipway.pods.training import TrainingPodOperator

        return TrainingPodOperator(task_id=self.step, model="tiny", spec_file="tiny.yaml", retries=3, **arguments)

    def context(self, ti: TaskInstance, **params: Any) -> Any:
        ti.task_id = self.step
        return super().context(ti, **params)

    def freeze(self, *, max_restarts: int = 1, **resources: Any) -> None:
        """Leave what the steps before the training left, with a spec that gives it these resources."""
        store = Store(self.settings.store_url())
        given = {"nodes": NUM_NODES, "grace_seconds": 1, **resources}
        spec = ModelSpec.model_validate(
            {
                "name": "tiny",
                "training": {"ranks": NUM_NODES, "max_restarts": max_restarts},
                "resources": {"train": given},
            }
        )
        frozen = artifacts.publish_files(store, "spec", {"spec.json": spec.canonical()}, self.settings.resolved_home())
        ref = {"kind": "tokens", "digest": "0" * 64}
        results = {
            "freeze": {"spec": frozen.model_dump(), "force": [], "note": ""},
            "validate": {"dataset": ref, "source_digest": "s"},
            "prepare": {"tokens": ref, "tokenizer": ref},
        }
        for step, result in results.items():
            info = RunInfo(model="tiny", run_id="manual__1", task_id=step)
            self.receipts[step] = Receipt(step=step, run=info, key="k", started=1.0, seconds=1.0, result=result)

    def node(self, number: int) -> Object:
        """Wait for the running pod of a node."""
        wait_for(lambda: self.running(number), f"node {number} runs")
        return next(iter(self.running(number).values()))

    def running(self, number: int) -> dict[str, Object]:
        """Return the running pods of a node by their uids."""
        found = self.cluster.pods(**{labels.NODE: str(number)})
        return {pod["metadata"]["uid"]: pod for pod in found if pod["status"].get("phase") == "Running"}

    def is_clear(self) -> bool:
        """Say whether nothing of the training is left."""
        return not (self.cluster.list(JOB) or self.cluster.list(SERVICE) or self.cluster.list(POD))


@pytest.fixture
def training(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingCase]:
    """Give a test a training on two nodes."""
    made = TrainingCase(case.cluster, case.settings, case.told)
    monkeypatch.setattr("slipway.pods.watching.CHECK_SECONDS", 0.05)
    monkeypatch.setattr("slipway.requests.pulled", lambda _context, step: made.receipts[step])
    made.settings.resolved_home().mkdir()
    made.freeze()
    made.tell(result={"n": 1})
    yield made
    made.cluster.clear()
