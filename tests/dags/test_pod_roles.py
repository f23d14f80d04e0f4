"""The roles of the manifests are enough for a step's task, in the worker and deferred."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import config

from tests.cluster import Cluster
from tests.cluster.access import service_account
from tests.cluster.kinds import ROLE
from tests.dags.pod_case import PodCase, case
from tests.e2e_k8s import applying

__all__ = ["case"]

WORKER, TRIGGERER = "airflow-worker", "airflow-triggerer"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a cluster with the manifests applied."""
    with Cluster(namespaces=("envoy-gateway-system",)) as cluster:
        api = config.new_client_from_config(str(cluster.kubeconfig))
        bodies = applying.rendered("kind", "slipway-airflow:0.1.0")
        applying.apply(api, [body for body in bodies if body["kind"] not in {"Deployment", "Gateway"}])
        yield cluster


@pytest.fixture
def as_on_a_cluster(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> PodCase:
    """Let the task run with the worker's account, and wait with the triggerer's."""

    def become(account: str) -> None:
        user = service_account("airflow", account)
        monkeypatch.setenv("KUBECONFIG", str(case.cluster.kubeconfig_of(user, "slipway")))

    async def fired(self: PodCase, trigger: Any) -> dict[str, Any]:
        become(TRIGGERER)
        try:
            return await wait(self, trigger)
        finally:
            become(WORKER)

    wait = PodCase.fired
    monkeypatch.setattr(PodCase, "fired", fired)
    monkeypatch.setenv("SLIPWAY_KUBERNETES_CONTEXT", "double")
    become(WORKER)
    return case


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "in-the-worker"])
def test_a_step_runs_with_the_rights_of_worker_and_triggerer(as_on_a_cluster: PodCase, deferrable: bool) -> None:
    receipt = as_on_a_cluster.run(deferrable=deferrable)

    assert receipt["step"] == "freeze"


def test_without_the_right_to_make_pods_nothing_is_begun(as_on_a_cluster: PodCase) -> None:
    cluster = as_on_a_cluster.cluster
    rules = [rule for rule in cluster.get(ROLE, WORKER)["rules"] if rule["resources"] != ["pods"]]
    message = "give system:serviceaccount:airflow:airflow-worker the verb"

    with narrowed(cluster, rules), pytest.raises(Exception, match=message):
        as_on_a_cluster.run(deferrable=False)

    assert cluster.pods() == []


@contextlib.contextmanager
def narrowed(cluster: Cluster, rules: list[dict[str, Any]]) -> Iterator[None]:
    """Let the worker's role have only some rules for a while."""
    before = cluster.get(ROLE, WORKER)
    cluster.store.change(ROLE, "slipway", WORKER, lambda found: {**found, "rules": rules})
    yield
    cluster.store.change(ROLE, "slipway", WORKER, lambda found: {**found, "rules": before["rules"]})
