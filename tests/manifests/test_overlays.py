"""Every overlay renders to objects that a cluster takes, and names only what exists."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from pipelines import labels
from pipelines.podspec import CONTROLLER_SECRET, container_security, pod_security
from pipelines.settings import Settings
from tests.manifests.rendered import MANIFESTS, OVERLAYS, named, objects_of, of_kind, settings_of

KUBERNETES = "1.37"
NOT_KUBERNETES_OWN = {"EnvoyProxy", "Gateway", "GatewayClass", "PodMonitor"}
"""Custom resources: their schema comes with Envoy Gateway, the Gateway API and the Prometheus operator."""

both = pytest.mark.parametrize("overlay", OVERLAYS)


@both
def test_every_object_has_only_fields_that_kubernetes_knows(overlay: str) -> None:
    for body in objects_of(overlay):
        if body["kind"] not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(body, KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    body = {**named("kind", "Deployment", "slipway-controller")}
    body["spec"] = {**body["spec"], "replica": 1}

    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(body, KUBERNETES, strict=True)


@both
def test_what_goes_unchecked_is_what_other_projects_define(overlay: str) -> None:
    unchecked = set()
    for body in objects_of(overlay):
        try:
            kubernetes_validate.validate(body, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.add(body["kind"])

    assert unchecked == NOT_KUBERNETES_OWN


@both
def test_overlays_bring_the_same_objects(overlay: str) -> None:
    def names(which: str) -> set[tuple[str, str, str]]:
        return {
            (body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"].partition("-settings-")[0])
            for body in objects_of(which)
        }

    assert names(overlay) == names("kind")


@both
def test_pods_of_both_namespaces_have_to_be_restricted(overlay: str) -> None:
    for namespace in of_kind(overlay, "Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@both
def test_the_controller_is_as_restricted_as_steps_and_services_are(overlay: str) -> None:
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]

    assert pod["securityContext"] == pod_security()
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == container_security()
        assert container["resources"].keys() == {"requests", "limits"}
        assert container["imagePullPolicy"] == "IfNotPresent"


@both
def test_the_controllers_secret_is_the_one_that_no_step_may_have(overlay: str) -> None:
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]

    for container in (*pod["initContainers"], *pod["containers"]):
        needed = [entry["secretRef"] for entry in container["envFrom"] if "secretRef" in entry]
        assert {"name": CONTROLLER_SECRET} in needed


@both
def test_there_is_one_controller_and_never_two(overlay: str) -> None:
    spec = named(overlay, "Deployment", "slipway-controller")["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@both
def test_the_controller_starts_again_when_a_setting_changes(overlay: str) -> None:
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]
    (source,) = [entry for entry in pod["containers"][0]["envFrom"] if "configMapRef" in entry]

    name = source["configMapRef"]["name"]
    assert name.startswith("slipway-settings-"), "its name has no hash of its contents"
    assert (
        named(overlay, "ConfigMap", name, "slipway")["data"] == named(overlay, "ConfigMap", "slipway-settings")["data"]
    )


@both
def test_only_settings_that_exist_are_set(overlay: str) -> None:
    known = {f"SLIPWAY_{name.upper()}" for name in Settings.model_fields}

    assert {name for name in settings_of(overlay) if name.startswith("SLIPWAY_")} <= known


@both
def test_the_settings_are_valid(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings_of(overlay).items():
        monkeypatch.setenv(name, value)

    assert Settings().platform == "kubernetes"


@both
def test_what_the_settings_name_is_there(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings_of(overlay).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    namespace, _, gateway = settings.gateway.partition("/")

    assert named(overlay, "Namespace", settings.kubernetes_namespace)
    assert named(overlay, "Gateway", gateway, namespace)
    for account in (settings.step_service_account, settings.service_service_account):
        assert named(overlay, "ServiceAccount", account, settings.kubernetes_namespace)


@both
def test_only_our_namespace_may_hang_routes_on_the_gateway(overlay: str) -> None:
    (gateway,) = of_kind(overlay, "Gateway")
    (listener,) = gateway["spec"]["listeners"]
    wanted = listener["allowedRoutes"]["namespaces"]["selector"]["matchLabels"]

    allowed = [
        body["metadata"]["name"]
        for body in of_kind(overlay, "Namespace")
        if wanted.items() <= body["metadata"]["labels"].items()
    ]
    assert allowed == [Settings().kubernetes_namespace]


@both
@pytest.mark.parametrize("namespace", ["airflow", "slipway"])
def test_nobody_talks_with_anybody_by_default(overlay: str, namespace: str) -> None:
    spec = named(overlay, "NetworkPolicy", "default-deny", namespace)["spec"]

    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@both
def test_no_policy_opens_the_port_of_the_nodes_identity(overlay: str) -> None:
    opened: list[Any] = [
        port["port"]
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("egress", ())
        if "to" not in rule
        for port in rule["ports"]
    ]
    assert 80 not in opened
    assert 443 in opened


@both
def test_policies_and_monitors_select_by_labels_that_we_set(overlay: str) -> None:
    selected = named(overlay, "NetworkPolicy", "store", "slipway")["spec"]["podSelector"]["matchExpressions"][0]
    monitor = named(overlay, "PodMonitor", "slipway-services")["spec"]

    assert selected["key"] == labels.COMPONENT
    assert set(selected["values"]) == {labels.CONTROLLER, labels.STEP, labels.TRAINING}
    assert monitor["selector"]["matchLabels"] == {labels.MANAGED_BY: labels.SLIPWAY, labels.COMPONENT: labels.SERVICE}
    assert set(monitor["podTargetLabels"]) == {labels.MODEL, labels.COPY}


def test_on_eks_every_account_that_reaches_the_store_has_a_role_of_its_own_kind() -> None:
    accounts = of_kind("eks", "ServiceAccount")
    roles = {
        body["metadata"]["name"]: body["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
        for body in accounts
    }

    assert [name for name, role in roles.items() if role is None] == ["airflow-jobs"]
    assert roles["slipway-service"] == roles["slipway-controller"] != roles["slipway-step"]


def test_every_file_belongs_to_an_overlay() -> None:
    named_in = "".join(path.read_text(encoding="utf-8") for path in MANIFESTS.rglob("kustomization.yaml"))
    files = [
        path
        for path in MANIFESTS.rglob("*.yaml")
        if path.name != "kustomization.yaml" and path.parent.name != "airflow"
    ]

    assert [path.name for path in files if path.name not in named_in] == []


@both
def test_pods_reach_the_gateway_by_the_name_of_its_service(overlay: str) -> None:
    proxy, gateway = named(overlay, "EnvoyProxy", "slipway"), named(overlay, "Gateway", "slipway")
    service = proxy["spec"]["provider"]["kubernetes"]["envoyService"]["name"]

    address = f"{service}.{proxy['metadata']['namespace']}.svc:{gateway['spec']['listeners'][0]['port']}"
    assert settings_of(overlay)["SLIPWAY_GATEWAY_ADDRESS"] == address
