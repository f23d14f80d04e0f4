"""The roles of the manifests are enough for a step's task, in one pod or in several, in the worker and deferred."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config

from tests.cluster import Cluster
from tests.cluster.access import service_account
from tests.cluster.kinds import JOB, ROLE
from tests.cluster.selectors import Object
from tests.dags.job_case import TrainingCase, training
from tests.dags.pod_case import PodCase, TaskInstance, case, cluster
from tests.e2e_k8s import applying

__all__ = ["case", "cluster", "training"]

WORKER, TRIGGERER = "airflow-worker", "airflow-triggerer"
DEFERRED = pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "in-the-worker"])


@pytest.fixture(scope="module")
def manifests() -> list[Object]:
    """Return what an overlay says of namespaces, accounts and roles."""
    kinds = {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    return [body for body in applying.rendered("kind", "slipway-airflow:0.1.0") if body["kind"] in kinds]


@pytest.fixture
def as_on_a_cluster(case: PodCase, manifests: list[Object], monkeypatch: pytest.MonkeyPatch) -> str:
    """Let tasks run with the worker's account, and wait with the triggerer's; return the worker's name."""
    api = config.new_client_from_config(str(case.cluster.kubeconfig))
    with contextlib.suppress(client.ApiException):
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "envoy-gateway-system"}})
    applying.apply(api, manifests)

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
    return service_account("airflow", WORKER)


@DEFERRED
def test_a_step_runs_with_the_rights_of_worker_and_triggerer(
    case: PodCase, as_on_a_cluster: str, deferrable: bool
) -> None:
    assert case.run(deferrable=deferrable)["step"] == "freeze"


@DEFERRED
def test_a_training_on_several_nodes_runs_with_the_same_rights(
    training: TrainingCase, as_on_a_cluster: str, deferrable: bool
) -> None:
    assert training.run(deferrable=deferrable)["step"] == "train"

    by_account: dict[str, set[tuple[str, str]]] = {}
    for seen in training.cluster.seen():
        by_account.setdefault(seen.user, set()).add((seen.verb, seen.resource))
    assert ("create", "jobs") in by_account[as_on_a_cluster]
    watcher = service_account("airflow", TRIGGERER)
    assert (("get", "jobs") in by_account.get(watcher, set())) or not deferrable, "the triggerer looked itself"


@pytest.mark.parametrize(
    ("account", "resource", "message"),
    [
        pytest.param(WORKER, "pods", "airflow-worker the verb list on pods in namespace slipway", id="pods"),
    ],
)
def test_without_a_right_no_pod_is_made(
    case: PodCase, as_on_a_cluster: str, account: str, resource: str, message: str
) -> None:
    with narrowed(case.cluster, account, resource), pytest.raises(Exception, match=message):
        case.run(deferrable=False)

    assert case.cluster.pods() == []


@pytest.mark.parametrize(
    ("account", "resource", "message"),
    [
        pytest.param(WORKER, "jobs", "airflow-worker the verb list on jobs.batch", id="jobs-of-the-worker"),
        pytest.param(WORKER, "services", "airflow-worker the verb create on services", id="services-of-the-worker"),
        pytest.param(TRIGGERER, "jobs", "look at job .*airflow-triggerer the verb get on jobs.batch", id="triggerer"),
    ],
)
def test_without_a_right_no_training_is_left(
    training: TrainingCase, as_on_a_cluster: str, account: str, resource: str, message: str
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with (
        narrowed(training.cluster, account, resource),
        pytest.raises(AirflowFailException, match=message),
    ):
        training.run(TaskInstance())

    assert [job for job in training.cluster.list(JOB) if "deletionTimestamp" not in job["metadata"]] == []


@contextlib.contextmanager
def narrowed(cluster: Cluster, account: str, resource: str) -> Iterator[None]:
    """Take from an account's role for a while what it may do with a resource."""
    before = cluster.get(ROLE, account)
    rules = [rule for rule in before["rules"] if resource not in rule["resources"]]
    assert len(rules) < len(before["rules"])
    cluster.store.change(ROLE, "slipway", account, lambda found: {**found, "rules": rules})
    yield
    cluster.store.change(ROLE, "slipway", account, lambda found: {**found, "rules": before["rules"]})
