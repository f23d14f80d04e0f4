"""Bodies of a copy's objects."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from pipelines import labels
from pipelines.ledger import Version
from pipelines.release.kubernetes import objects
from pipelines.release.kubernetes.cluster import KINDS
from pipelines.release.kubernetes.objects import END_SECONDS, Peers
from pipelines.settings import Settings
from pipelines.spec import ServingConfig
from tests.unit.release.states import version

SETTINGS = Settings(platform="kubernetes", store="s3://bucket/store", store_secret="s3", image_pull_secrets="one,two")
PEERS = Peers(gateway_namespace="envoy-gateway-system", prometheus_namespace="monitoring")
DOCS: Version = version("docs", 3)


def bodies(**serving: Any) -> dict[str, dict[str, Any]]:
    found = objects.bodies(DOCS, ServingConfig(**serving), SETTINGS, PEERS)
    return {body["kind"]: body for body in found}


def pod(**serving: Any) -> dict[str, Any]:
    return dict(bodies(**serving)["Deployment"]["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    ("serving", "kinds"),
    [
        pytest.param(
            {},
            ["Deployment", "NetworkPolicy", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"],
            id="scaled",
        ),
        pytest.param(
            {"replicas": 3, "max_replicas": 3},
            ["Deployment", "NetworkPolicy", "Service", "PodDisruptionBudget"],
            id="a-fixed-number",
        ),
        pytest.param(
            {"replicas": 1, "max_replicas": 1},
            ["Deployment", "NetworkPolicy", "Service"],
            id="one-pod-a-budget-would-block-the-drain-of-its-node",
        ),
    ],
)
def test_a_copy_has_the_objects_that_it_needs_the_deployment_first(serving: dict[str, int], kinds: list[str]) -> None:
    found = bodies(**serving)
    assert list(found) == kinds
    for body in found.values():
        assert body["apiVersion"] == KINDS[body["kind"]].api_version
        assert body["metadata"]["name"] == DOCS.copy_name
        assert body["metadata"]["labels"] == {
            labels.MANAGED_BY: "slipway",
            labels.COMPONENT: "service",
            labels.MODEL: "docs",
            labels.COPY: DOCS.copy_name,
        }


@pytest.mark.parametrize("kind", list(bodies()))
def test_the_api_knows_every_field(kind: str) -> None:
    kubernetes_validate.validate(bodies(gpus=1)[kind], kubernetes_validate.latest_version(), strict=True)


def test_an_autoscaler_owns_the_number_of_pods() -> None:
    assert "replicas" not in bodies()["Deployment"]["spec"]
    assert bodies(replicas=3, max_replicas=3)["Deployment"]["spec"]["replicas"] == 3


def test_both_containers_are_as_restricted_as_can_be() -> None:
    found = pod()
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["automountServiceAccountToken"] is False
    for container in (*found["initContainers"], *found["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert [name["name"] for name in found["imagePullSecrets"]] == ["one", "two"]


def test_the_bento_is_fetched_by_its_digest_and_served_on_the_pods_own_address() -> None:
    (fetch,), (serve,) = pod()["initContainers"], pod()["containers"]
    assert fetch["command"] == [
        *("python", "-m", "pipelines", "fetch", "--artifact", DOCS.bento.uri, "--to", "/bento/content")
    ]
    assert serve["command"] == [
        *("python", "-m", "bentoml", "serve", "/bento/content", "--host", "$(POD_IP)", "--port", "3000")
    ]
    assert fetch["image"] == serve["image"] == SETTINGS.service_image
    env = {entry["name"]: entry for entry in serve["env"]}
    assert env["POD_IP"] == {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    assert env["SLIPWAY_COPY"]["value"] == DOCS.copy_name
    assert env["SLIPWAY_RECORDINGS_UNREAD"]["value"] == "1"
    assert next(iter(env)) == "POD_IP", "a variable is known to those after it"


def test_only_the_init_container_may_read_the_store() -> None:
    (fetch,), (serve,) = pod()["initContainers"], pod()["containers"]
    secret = {"secretKeyRef": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": secret} in fetch["env"]
    assert "envFrom" not in fetch | serve, "no other key of a Secret sets a variable"
    assert not [entry for entry in serve["env"] if "STORE" in entry["name"] or "AWS" in entry["name"]]


def test_the_role_of_the_account_is_for_the_init_container_only() -> None:
    template = bodies()["Deployment"]["spec"]["template"]
    (serve,) = template["spec"]["containers"]
    assert template["metadata"]["annotations"] == {"eks.amazonaws.com/skip-containers": serve["name"]}


def test_a_pod_may_finish_its_longest_stream_before_it_is_killed() -> None:
    found = pod(drain_seconds=600)
    *_, least, most = found["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert float(most) >= 600 + float(least)
    assert found["terminationGracePeriodSeconds"] >= float(most) + END_SECONDS


def test_the_startup_probe_waits_as_long_as_the_rollout() -> None:
    serve = pod()["containers"][0]
    probe = serve["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= DOCS.rollout.ready_timeout_seconds
    assert {serve[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe")} == {"/readyz"}
    assert serve["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_nobody_but_gateway_prometheus_and_controller_reaches_a_pod() -> None:
    spec = bodies()["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["podSelector"]["matchLabels"][labels.COPY] == DOCS.copy_name
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": 3000, "protocol": "TCP"}]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "envoy-gateway-system"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
        {"podSelector": {"matchLabels": {labels.MANAGED_BY: "slipway", labels.COMPONENT: "controller"}}},
    ]
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53, 443]


def test_pods_spread_over_nodes_and_zones_and_one_may_be_away() -> None:
    keys = [entry["topologyKey"] for entry in pod()["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert bodies()["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_gpus_are_for_the_service_only() -> None:
    (fetch,), (serve,) = pod(gpus=1)["initContainers"], pod(gpus=1)["containers"]
    assert serve["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in fetch["resources"]["limits"]


def test_gpus_have_the_name_that_nodes_offer_them_under() -> None:
    (serve,) = pod(gpus=2, gpu_resource="amd.com/gpu")["containers"]
    assert serve["resources"]["limits"] == {"cpu": "1", "memory": "2Gi", "amd.com/gpu": 2}


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        pytest.param({"node_selector": {"pool": "gpu"}}, {"nodeSelector": {"pool": "gpu"}}, id="node-selector"),
        pytest.param(
            {"tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
            {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]},
            id="tolerations",
        ),
        pytest.param({"affinity": {"nodeAffinity": {}}}, {"affinity": {"nodeAffinity": {}}}, id="affinity"),
        pytest.param({"priority_class": "serving"}, {"priorityClassName": "serving"}, id="priority"),
        pytest.param({"runtime_class": "nvidia"}, {"runtimeClassName": "nvidia"}, id="runtime"),
    ],
)
def test_pods_run_where_the_spec_says(serving: dict[str, Any], expected: dict[str, Any]) -> None:
    placed, plain = bodies(**serving), pod()
    found = placed["Deployment"]["spec"]["template"]["spec"]
    assert {key: value for key, value in found.items() if plain.get(key) != value} == expected
    kubernetes_validate.validate(placed["Deployment"], kubernetes_validate.latest_version(), strict=True)


def test_what_belongs_to_a_copy_is_owned_by_its_deployment() -> None:
    found = bodies()
    owner = {**found["Deployment"], "metadata": {**found["Deployment"]["metadata"], "uid": "u-1"}}
    (reference,) = objects.owned_by(found["Service"], owner)["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["name"], reference["uid"]) == ("Deployment", DOCS.copy_name, "u-1")
    assert "ownerReferences" not in found["Service"]["metadata"]
