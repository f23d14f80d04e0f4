"""The overlays on a cluster that answers: everything is taken, and the roles are enough for what is done by them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client, config

from pipelines.release.kubernetes.cluster import Cluster as Client
from pipelines.settings import Settings
from tests.cluster import Cluster
from tests.cluster.access import service_account
from tests.cluster.kinds import ROLE
from tests.e2e_k8s import applying, gateways
from tests.manifests.rendered import OVERLAYS


@pytest.fixture(scope="module", params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return a cluster with an overlay applied, in which Envoy Gateway's namespace is there and its own API is not."""
    with Cluster(namespaces=("envoy-gateway-system",)) as cluster:
        api = config.new_client_from_config(str(cluster.kubeconfig))
        left_out = applying.apply(api, applying.rendered(request.param, "slipway-airflow:0.1.0"))
        assert left_out == ["EnvoyProxy slipway: the cluster has no gateway.envoyproxy.io/v1alpha1"]
        yield cluster


def may(cluster: Cluster, account: str, verb: str, resource: str, group: str = "") -> bool:
    """Return whether an account, whose name begins with its namespace, may do something in `slipway`: the API says."""
    user = service_account(account.partition("-")[0], account)
    api = config.new_client_from_config(str(cluster.kubeconfig_of(user)))
    asked = {"namespace": "slipway", "verb": verb, "group": group, "resource": resource.partition("/")[0]}
    if "/" in resource:
        asked["subresource"] = resource.partition("/")[2]
    review_of = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    body = {**review_of, "spec": {"resourceAttributes": asked}}
    review = client.AuthorizationV1Api(api).create_self_subject_access_review(body)
    return bool(review.status.allowed)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "group"),
    [
        ("airflow-worker", "create", "pods", ""),
        ("airflow-worker", "get", "pods/log", ""),
        ("airflow-worker", "create", "jobs", "batch"),
        ("airflow-triggerer", "watch", "pods", ""),
        ("airflow-triggerer", "patch", "httproutes", "gateway.networking.k8s.io"),
    ],
)
def test_airflow_may_do_what_steps_and_the_dead_man_need(
    cluster: Cluster, account: str, verb: str, resource: str, group: str
) -> None:
    assert may(cluster, account, verb, resource, group)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "group"),
    [
        ("airflow-worker", "create", "deployments", "apps"),
        ("airflow-worker", "get", "secrets", ""),
        ("airflow-worker", "create", "pods/exec", ""),
        ("airflow-triggerer", "create", "pods", ""),
        ("airflow-triggerer", "delete", "httproutes", "gateway.networking.k8s.io"),
        ("airflow-scheduler", "create", "pods", ""),
    ],
)
def test_airflow_may_not_do_what_others_do(
    cluster: Cluster, account: str, verb: str, resource: str, group: str
) -> None:
    assert not may(cluster, account, verb, resource, group)


@pytest.mark.parametrize("account", ["slipway-step", "slipway-service"])
@pytest.mark.parametrize("resource", ["pods", "secrets", "configmaps"])
def test_a_step_and_a_service_may_not_even_look(cluster: Cluster, account: str, resource: str) -> None:
    assert not may(cluster, account, "get", resource)


def test_applying_twice_changes_nothing(cluster: Cluster) -> None:
    api = config.new_client_from_config(str(cluster.kubeconfig))
    before = cluster.get(ROLE, "airflow-worker")

    applying.apply(api, [body for body in applying.rendered("kind", "slipway-airflow:0.1.0") if body["kind"] == "Role"])

    assert cluster.get(ROLE, "airflow-worker") == before


def test_without_anybody_who_accepts_its_class_there_is_no_gateway(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    assert not gateways.is_worked(Client(Settings()), "envoy-gateway", seconds=0)
