"""A real training on two nodes of a cluster without DNS, of which one dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import labels
from pipelines.pods.job import headless_service, training_job
from pipelines.settings import Settings
from pipelines.spec import TrainingResources
from pipelines.step import command, write_inputs
from tests.cluster import Cluster
from tests.cluster.kinds import JOB
from tests.cluster.selectors import Object
from tests.training_case import TrainingCase, make_case, wait_for

pytestmark = pytest.mark.slow

RESOURCES = TrainingResources(nodes=2, cpu="1", grace_seconds=5)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster whose pods are processes with addresses of their own."""
    with Cluster() as made:
        made.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "slipway-step"}})
        yield made


@pytest.fixture
def case(tmp_path: Path) -> TrainingCase:
    """A training of two ranks that saves often."""
    return make_case(tmp_path, ranks=2, max_steps=12, checkpoint_every_steps=2, max_restarts=3)


def start(cluster: Cluster, case: TrainingCase) -> None:
    """Make the Job and the Service of a try."""
    info = case.info()
    settings = Settings(platform="kubernetes", store=case.store.url)
    write_inputs(case.store, info, case.inputs)
    arguments = command("train", case.spec_uri, info)
    job = training_job(arguments, info, RESOURCES, settings, max_restarts=3, is_last_try=False)
    made = cluster.create(job)
    cluster.create(headless_service(info, settings, job_uid=made["metadata"]["uid"]))


def node(cluster: Cluster, number: int) -> Object:
    """Return the newest pod of a node."""
    return cluster.pods(**{labels.NODE: str(number)})[-1]


def is_over(cluster: Cluster) -> bool:
    (job,) = cluster.list(JOB)
    told = {row["type"] for row in job["status"].get("conditions", ()) if row["status"] == "True"}
    assert "Failed" not in told, [cluster.log(pod) for pod in cluster.pods()]
    return "Complete" in told


def test_a_node_that_dies_is_replaced_and_the_training_goes_on_from_its_checkpoint(
    cluster: Cluster, case: TrainingCase
) -> None:
    start(cluster, case)
    wait_for(case.checkpoint_steps, "a checkpoint")
    survivor = node(cluster, 0)["metadata"]["uid"]
    cluster.kill(node(cluster, 1))
    wait_for(lambda: is_over(cluster), "the Job is complete")
    receipt = case.receipt(case.info())
    assert receipt.result["steps"] == 12
    assert receipt.result["resumed_from_step"] >= 2
    assert node(cluster, 0)["metadata"]["uid"] == survivor, "the first node was not replaced"
    assert len(cluster.pods(**{labels.NODE: "1"})) == 2
    assert "machines meet at 127." in cluster.log(node(cluster, 0)), json.dumps(node(cluster, 0))
