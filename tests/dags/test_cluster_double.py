"""The tests' cluster under the provider's own pod operator: what it does on a real cluster, it does here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.selectors import Object
from tests.steps.live import wait_for

pytestmark = [pytest.mark.usefixtures("airflow_home"), pytest.mark.slow]
IMAGE = "slipway-step:1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster."""
    with Cluster() as running:
        yield running


DAG_FILE = """
import json, pathlib
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG

with DAG("pods", schedule=None):
    KubernetesPodOperator(**json.loads(pathlib.Path(__file__).with_suffix(".json").read_text()))
"""


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a script in a pod by the operator; return the task's state."""

    def run(script: str, *, is_deferrable: bool, **others: Any) -> str:
        from airflow import settings
        from airflow.dag_processing.dagbag import DagBag

        monkeypatch.setattr(settings, "DAGS_FOLDER", str(tmp_path))  # read once, when Airflow is imported
        arguments = {
            "task_id": "step",
            "name": "step",
            "namespace": "slipway",
            "image": IMAGE,
            "cmds": ["python", "-u", "-c"],
            "arguments": [script],
            "labels": {"test": "operator"},
            "config_file": str(cluster.kubeconfig),
            "deferrable": is_deferrable,
            "on_finish_action": "keep_pod",
            "startup_check_interval_seconds": 0.1,
            "base_container_status_polling_interval": 0.1,
            "poll_interval": 0.1,
            **others,
        }
        (tmp_path / "pods.py").write_text(DAG_FILE)
        (tmp_path / "pods.json").write_text(json.dumps(arguments))
        dag_run = DagBag(dag_folder=str(tmp_path)).dags["pods"].test(logical_date=None)
        return str(dag_run.get_task_instance("step").state)

    return run


@pytest.fixture(autouse=True)
def _without_pods(cluster: Cluster) -> Iterator[None]:
    """Leave no pod to the next test."""
    yield
    for pod in cluster.pods(test="operator"):
        cluster.delete(pod, seconds=0)


def the_pod(cluster: Cluster) -> Object:
    """Wait for the operator's pod."""
    wait_for(lambda: cluster.pods(test="operator"), "a pod", 120)
    return cluster.pods(test="operator")[0]


@pytest.mark.parametrize("is_deferrable", [pytest.param(False, id="waiting"), pytest.param(True, id="deferred")])
def test_a_pod_that_succeeds(cluster: Cluster, run: Callable[..., str], is_deferrable: bool) -> None:
    assert run("print('the answer is', 6 * 7)", is_deferrable=is_deferrable) == "success"
    pod = the_pod(cluster)
    assert pod["status"]["phase"] == "Succeeded"
    assert cluster.log(pod) == "the answer is 42\n"


@pytest.mark.parametrize("is_deferrable", [pytest.param(False, id="waiting"), pytest.param(True, id="deferred")])
def test_a_pod_that_fails(cluster: Cluster, run: Callable[..., str], is_deferrable: bool) -> None:
    assert run("import sys; sys.exit(20)", is_deferrable=is_deferrable) == "failed"
    assert the_pod(cluster)["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 20


def test_an_unknown_image_is_told_at_once(cluster: Cluster, run: Callable[..., str], capfd: Any) -> None:
    assert run("", is_deferrable=False, image="elsewhere:1") == "failed"
    assert "Image cannot be pulled, unable to start: ErrImagePull" in capfd.readouterr().out


@pytest.mark.parametrize("is_deferrable", [pytest.param(False, id="waiting"), pytest.param(True, id="deferred")])
def test_a_pod_without_memory(cluster: Cluster, run: Callable[..., str], is_deferrable: bool) -> None:
    hit = threading.Thread(target=lambda: cluster.oom_kill(running_pod(cluster)))
    hit.start()
    assert run("import time; print('begun'); time.sleep(600)", is_deferrable=is_deferrable) == "failed"
    hit.join()
    assert the_pod(cluster)["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"


def running_pod(cluster: Cluster) -> Object:
    """Wait until the operator's pod has printed something; return it."""
    wait_for(lambda: cluster.is_run(the_pod(cluster)) and cluster.log(the_pod(cluster)), "a running pod", 120)
    return the_pod(cluster)
