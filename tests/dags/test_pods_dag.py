"""The DAG file in Kubernetes mode: the same lifecycle, with its work steps as pods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import runner
from pipelines.step import WORK_STEPS
from tests.airflow_case import DAG_FILE, Lifecycle
from tests.cluster import Cluster
from tests.dags.pod_case import cluster, enter, fake_arguments
from tests.steps.live import wait_for

__all__ = ["cluster"]

PARSED = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
(dag,) = DagBag(dag_folder=sys.argv[1]).dags.values()
edges = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
kinds = {task.task_id: type(task).__name__ for task in dag.tasks}
print(json.dumps([edges, kinds, "airflow.providers.cncf.kubernetes.operators.pod" in sys.modules]))
"""


def parsed(platform: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, list[str]], dict[str, str], bool]:
    """Return edges and operators of the DAG, and whether the provider was imported, in a fresh process."""
    monkeypatch.setenv("SLIPWAY_PLATFORM", platform)
    done = subprocess.run([sys.executable, "-c", PARSED, str(DAG_FILE)], capture_output=True, text=True, check=True)
    edges, kinds, has_provider = json.loads(done.stdout.splitlines()[-1])
    return edges, kinds, has_provider


def test_the_platform_changes_the_operators_of_work_steps_and_nothing_else(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges, local, has_provider = parsed("local", monkeypatch)
    assert not has_provider, "on one machine nothing of Kubernetes is imported"
    edges_on_cluster, pods, has_provider = parsed("kubernetes", monkeypatch)
    assert has_provider
    assert edges_on_cluster == edges
    assert {task for task in pods if pods[task] != local[task]} == set(WORK_STEPS)
    assert {step for step in WORK_STEPS if pods[step] == "StepPodOperator"} == {*WORK_STEPS} - {"train"}
    assert pods["train"] == "TrainingPodOperator"


def test_steps_in_pods_hand_their_receipts_on_and_fail_as_on_one_machine(
    lifecycle: Lifecycle, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(cluster, tmp_path, monkeypatch)
    monkeypatch.setenv("SLIPWAY_STORE", lifecycle.settings.store_url())
    monkeypatch.setattr(runner.StepTry, "arguments", fake_arguments(lifecycle.told))
    lifecycle.tell("prepare", status=20, leaves=False, prints=["error: no text"])
    run = lifecycle.run()
    assert {step: run.tasks[step] for step in WORK_STEPS[:4]} == {
        "freeze": "success",
        "validate": "success",
        "prepare": "failed",
        "train": "upstream_failed",
    }
    assert (run.state, run.tries["prepare"]) == ("failed", 1)
    assert [row.resource for row in cluster.seen("create", "pods")] == ["pods"] * 3
    wait_for(lambda: not cluster.pods(), "the pods are removed")
