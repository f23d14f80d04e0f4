"""The fleet of Deployments against the double of a cluster, whose pods are processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines import labels
from pipelines.errors import ArtifactCorrupt, ArtifactMissing, BadInput
from pipelines.formats import bento
from pipelines.formats.headers import TRAFFIC, Traffic
from pipelines.ledger import Version
from pipelines.release.kubernetes import fleet as fleets
from pipelines.release.kubernetes import objects
from pipelines.release.kubernetes.cluster import ClusterRefused, ClusterUnavailable, Kind
from pipelines.release.kubernetes.fleet import WHOLE
from pipelines.release.kubernetes.meters import PodMeters
from pipelines.release.ports import Address, FleetError
from tests.cluster import kinds
from tests.steps import copy_server
from tests.steps.kubernetes_case import Case, running
from tests.steps.live import wait_for

CLIENT = httpx.Client(timeout=60, trust_env=False)
OWNED = (kinds.NETWORK_POLICY, kinds.SERVICE, kinds.DISRUPTION_BUDGET, kinds.AUTOSCALER)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Return a cluster whose copies are quick to start."""
    monkeypatch.setattr(bento, "serve_command", serve_command)
    with running(tmp_path, monkeypatch) as found:
        yield found


def serve_command(folder: Path, port: int, host: str, python: str) -> list[str]:
    return [python, copy_server.__file__, str(folder), str(port), host]


def there(case: Case) -> list[str]:
    return [kind.name for kind in (kinds.DEPLOYMENT, *OWNED) if case.double.list(kind)]


def pods_of(case: Case, version: Version) -> list[dict[str, Any]]:
    return case.double.pods(**{labels.COPY: version.copy_name})


def saying(case: Case, monkeypatch: pytest.MonkeyPatch, version: Version, **status: Any) -> None:
    """Let the API say that a copy's Deployment has a status."""
    found = case.double.get(kinds.DEPLOYMENT, version.copy_name)
    told = {"observedGeneration": found["metadata"]["generation"], **status}
    monkeypatch.setattr(case.cluster, "get", lambda *_: {**found, "status": told})


def test_a_copy_is_started_once_and_says_its_address(case: Case) -> None:
    version = case.version("one")
    address = case.fleet.start(version)
    assert address == Address(f"{version.copy_name}.slipway.svc", 3000)
    assert there(case) == ["Deployment", *(kind.name for kind in OWNED)]
    before = len(case.double.seen())

    assert case.fleet.start(version) == address
    assert [(seen.verb, seen.resource) for seen in case.double.seen()[before:]] == [
        ("get", "deployments"),
        ("list", "pods"),
    ]
    assert case.fleet.list() == case.fleet.list("docs") == {version.copy_name}
    assert case.fleet.list("other") == frozenset()


def test_a_copy_that_a_crash_left_half_made_is_completed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    version = case.version("one")
    apply, calls = case.cluster.apply, []

    def dying(body: dict[str, Any], *, is_trial: bool = False) -> Any:
        calls.append(body["kind"])
        if not is_trial and body["kind"] == "Service":
            raise KeyboardInterrupt
        return apply(body, is_trial=is_trial)

    monkeypatch.setattr(case.cluster, "apply", dying)
    with pytest.raises(KeyboardInterrupt):
        case.fleet.start(version)
    assert there(case) == ["Deployment", "NetworkPolicy"]
    assert case.fleet.list("docs") == {version.copy_name}
    monkeypatch.undo()

    case.fleet.start(version)
    assert there(case) == ["Deployment", *(kind.name for kind in OWNED)]
    assert WHOLE in case.double.get(kinds.DEPLOYMENT, version.copy_name)["metadata"]["annotations"]


@pytest.mark.parametrize("is_half_made", [False, True], ids=["whole", "half-made"])
def test_stopping_removes_everything_of_the_copy_and_nothing_else(case: Case, is_half_made: bool) -> None:
    one, two = case.version("one"), case.version("two", 2)
    for version in (one, two):
        case.fleet.start(version)
    if is_half_made:
        case.double.delete(case.double.get(kinds.DEPLOYMENT, one.copy_name))
    case.stop(one.copy_name)

    for kind in (kinds.DEPLOYMENT, *OWNED):
        assert [body["metadata"]["labels"][labels.COPY] for body in case.double.list(kind)] == [two.copy_name]
    case.fleet.stop(one.copy_name)


def test_a_copy_whose_pods_take_long_to_end_is_not_stopped_yet(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "STOP_SECONDS", 0.5)
    version = case.version("one")
    case.fleet.start(version)
    case.double.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "slow", "labels": objects.copy_labels(version), "finalizers": ["tests/slow"]},
            "spec": {
                "containers": [
                    {
                        "name": "serve",
                        "image": "slipway-service",
                        "command": ["sleep", "60"],
                        "ports": [{"name": "http", "containerPort": objects.PORT}],
                    }
                ]
            },
        }
    )
    with pytest.raises(FleetError, match=f"copy {version.copy_name} is still ending: .*Pod slow"):
        case.fleet.stop(version.copy_name)


def serving(case: Case, monkeypatch: pytest.MonkeyPatch) -> Version:
    """Start a copy whose pods take some seconds to end, and return its version when both serve."""
    monkeypatch.setattr(objects, "LEAST_DRAIN_SECONDS", 2)
    monkeypatch.setattr(objects, "END_SECONDS", 2)
    version = case.bento_version("one", drain_seconds=1)
    case.fleet.start(version)
    wait_for(lambda: sum(map(is_ready, pods_of(case, version))) == 2, "two pods are ready", seconds=60)
    return version


def test_pods_that_drain_keep_their_network_policy(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    version = serving(case, monkeypatch)
    with monkeypatch.context() as impatient:
        impatient.setattr(fleets, "STOP_SECONDS", 0.5)
        with pytest.raises(FleetError, match=f"copy {version.copy_name} is still ending: Pod docs-"):
            case.fleet.stop(version.copy_name)
    assert len(pods_of(case, version)) == 2
    assert there(case) == ["Deployment", *(kind.name for kind in OWNED)]
    assert case.fleet.list("docs") == {version.copy_name}, "the next look goes on"
    assert not case.fleet.ready(version.copy_name)

    case.stop(version.copy_name)
    assert (there(case), pods_of(case, version)) == ([], [])


def test_a_stop_that_is_killed_after_any_of_its_changes_is_finished(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = case.version("one")
    case.fleet.start(version)
    changed: set[str] = set()

    def dying(verb: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(kind: Kind, *arguments: Any) -> Any:
            change(kind, *arguments)
            if f"{verb} {kind.kind}" not in changed:
                changed.add(f"{verb} {kind.kind}")
                raise KeyboardInterrupt

        return changing

    for verb in ("patch", "delete"):
        monkeypatch.setattr(case.cluster, verb, dying(verb, getattr(case.cluster, verb)))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            case.stop(version.copy_name)
    assert changed == {"patch Deployment", "delete Deployment"}
    monkeypatch.undo()
    case.stop(version.copy_name)
    assert (there(case), pods_of(case, version)) == ([], [])


def test_a_copy_that_is_wanted_back_while_it_stops_is_made_anew(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    version = serving(case, monkeypatch)
    before = {pod["metadata"]["name"] for pod in pods_of(case, version)}
    with monkeypatch.context() as impatient:
        impatient.setattr(fleets, "STOP_SECONDS", 0.0)
        with pytest.raises(FleetError, match="is still ending"):
            case.fleet.stop(version.copy_name)
    with pytest.raises(FleetError, match="is still ending"):
        case.fleet.start(version)

    def is_back() -> bool:
        try:
            case.fleet.start(version)
        except FleetError:
            return False
        return case.fleet.ready(version.copy_name)

    wait_for(is_back, "the copy is ready again", seconds=120)
    assert before.isdisjoint(pod["metadata"]["name"] for pod in pods_of(case, version))


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [
        pytest.param({}, False, id="no-pod"),
        pytest.param({"readyReplicas": 2}, True, id="all"),
        pytest.param({"readyReplicas": 1}, True, id="one-is-away-as-the-budget-allows"),
        pytest.param({"readyReplicas": 2, "observedGeneration": 0}, False, id="of-an-older-generation"),
    ],
)
def test_a_copy_is_ready_when_enough_pods_are(
    case: Case, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], is_ready: bool
) -> None:
    version = case.version("one", replicas=2, max_replicas=2)
    case.fleet.start(version)
    assert not case.fleet.ready("docs-unknown")
    saying(case, monkeypatch, version, **status)
    assert case.fleet.ready(version.copy_name) is is_ready


def test_the_counters_of_a_copy_are_the_sum_of_its_pods(case: Case) -> None:
    version = case.bento_version("one", replicas=2, max_replicas=2)
    case.double.remove_node("node-1")
    case.fleet.start(version)
    with pytest.raises(FleetError, match="has no pod that serves"):
        case.fleet.meter(version.copy_name)
    case.double.add_node("node-1")
    wait_for(lambda: sum(map(is_ready, pods_of(case, version))) == 2, "two pods are ready", seconds=60)
    assert case.fleet.ready(version.copy_name)

    for number, pod in enumerate(pods_of(case, version), start=1):
        url = f"http://{pod['status']['podIP']}:3000/v1/completions"
        for _ in range(number):
            assert CLIENT.post(url, json={"prompt": "x"}).is_success
        assert CLIENT.post(url, json={"prompt": "x"}, headers={TRAFFIC: "pinned"}).is_success
    found = case.fleet.meter(version.copy_name)
    assert (found[Traffic.USER].requests, found[Traffic.PINNED].requests) == (1 + 2, 2)
    assert case.fleet.recorded(version.copy_name) == ()


def test_from_outside_of_the_cluster_the_api_server_asks_the_pods(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    version = case.bento_version("one")
    case.fleet.start(version)
    wait_for(lambda: sum(map(is_ready, pods_of(case, version))) == 2, "two pods are ready", seconds=60)
    for pod in pods_of(case, version):
        url = f"http://{pod['status']['podIP']}:3000/v1/completions"
        assert CLIENT.post(url, json={"prompt": "x"}).is_success
    monkeypatch.setattr(PodMeters, "_asked_itself", leads_nowhere)

    found = case.fleet.meter(version.copy_name)

    assert found[Traffic.USER].requests == 2
    assert [seen.code for seen in case.double.seen("get", "pods/proxy")] == [200, 200]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    case.connect()
    with pytest.raises(FleetError, match="does not tell its metrics: no route to host"):
        case.fleet.meter(version.copy_name)


def leads_nowhere(self: PodMeters, address: str) -> str:
    raise httpx.ConnectTimeout("no route to host")


def test_a_bento_whose_bytes_are_wrong_is_refused_by_the_pod_that_fetches_it(case: Case) -> None:
    version = case.bento_version("one")
    folder = case.store.local_path(version.bento.uri)
    assert folder is not None
    (folder / "src" / "copy.json").write_text("{}")

    def is_refused() -> bool:
        try:
            case.fleet.start(version)
        except ArtifactCorrupt as error:
            return "src/copy.json differs from its manifest" in str(error)
        return False

    wait_for(is_refused, "the refusal", seconds=60)


def test_a_bento_that_the_store_does_not_have_starts_nothing(case: Case) -> None:
    version = case.version("one")
    missing = version.model_copy(update={"bento": version.bento.model_copy(update={"digest": "0" * 64})})
    with pytest.raises(ArtifactMissing):
        case.fleet.start(missing)
    assert there(case) == []


def test_an_image_that_nobody_has_is_named(case: Case) -> None:
    case.connect(service_image="nobody/knows:1")
    version = case.version("one")

    def is_told() -> bool:
        try:
            case.fleet.start(version)
        except FleetError as error:
            return all(part in str(error) for part in ("fetch: ", "Image", "nobody/knows:1"))
        return False

    wait_for(is_told, "the reason")


def test_pods_that_a_quota_forbids_are_told_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    version = case.version("one")
    case.fleet.start(version)
    said = 'pods "docs" is forbidden: exceeded quota: compute'
    saying(case, monkeypatch, version, conditions=[{"type": "ReplicaFailure", "status": "True", "message": said}])
    with pytest.raises(FleetError, match=r"no pod of copy docs-.* can be made: .*exceeded quota"):
        case.fleet.start(version)


@pytest.mark.parametrize(
    ("verb", "resource", "message"),
    [
        pytest.param(
            "patch",
            "deployments",
            "patch Deployment docs-.* in namespace slipway: .*the verb patch on deployments.apps",
            id="first",
        ),
        pytest.param(
            "patch",
            "networkpolicies",
            "patch NetworkPolicy .*the verb patch on networkpolicies.networking",
            id="another",
        ),
        pytest.param("get", "gateways", r"get Gateway slipway in namespace envoy-gateway-system", id="gateway"),
    ],
)
def test_a_forbidden_verb_is_named_before_anything_is_made(case: Case, verb: str, resource: str, message: str) -> None:
    case.double.access.forbid(verb, resource)
    with pytest.raises(ClusterRefused, match=message):
        case.fleet.start(case.version("one"))
    assert there(case) == []


def test_an_unknown_context_names_the_variable(case: Case) -> None:
    case.connect(kubernetes_context="nowhere")
    with pytest.raises(BadInput, match=r"load context 'nowhere' .*set SLIPWAY_KUBERNETES_CONTEXT"):
        case.fleet.start(case.version("one"))


def test_a_missing_namespace_is_named(case: Case) -> None:
    case.connect(kubernetes_namespace="elsewhere")
    with pytest.raises(BadInput, match=r"get Namespace elsewhere: there is none .*SLIPWAY_KUBERNETES_NAMESPACE"):
        case.fleet.start(case.version("one"))


def test_a_cluster_without_the_gateway_api_is_told_so(case: Case) -> None:
    known = case.double.kinds._known
    for key in [key for key in known if key[0] == kinds.GATEWAY.group]:
        del known[key]
    with pytest.raises(ClusterRefused, match=r"knows no gateways\.gateway\.networking\.k8s\.io; install the Gateway"):
        case.fleet.start(case.version("one"))
    assert there(case) == []


def test_a_gateway_that_is_not_there_is_named(case: Case) -> None:
    case.connect(gateway="envoy-gateway-system/other")
    with pytest.raises(BadInput, match="get Gateway other in namespace envoy-gateway-system: there is none"):
        case.fleet.start(case.version("one"))


def test_a_gateway_of_an_unknown_controller_is_refused(case: Case) -> None:
    def change(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "spec": {"controllerName": "example.org/unheard-of"}}

    case.double.store.change(kinds.GATEWAY_CLASS, "", "class", change)
    with pytest.raises(
        BadInput, match=r"example\.org/unheard-of, which gateways\.yaml does not know; use a Gateway of Envoy"
    ):
        case.fleet.start(case.version("one"))


def test_credentials_that_are_not_accepted_are_no_stack_trace(case: Case) -> None:
    case.double.access.revoke("kubernetes-admin")
    with pytest.raises(ClusterUnavailable, match="the credentials are not accepted: renew the token"):
        case.fleet.list()  # tokens are renewed while a release runs: that is no reason to take it back


def test_a_cluster_that_does_not_answer_may_be_asked_again(case: Case, tmp_path: Path) -> None:
    kubeconfig = case.double.kubeconfig
    elsewhere = tmp_path / "kubeconfig"
    elsewhere.write_text(kubeconfig.read_text().replace(case.double.url, "http://127.0.0.1:9"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(elsewhere))
        case.connect()
        with pytest.raises(ClusterUnavailable, match="the API does not answer") as told:
            case.fleet.list()
    assert told.value.retryable


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)
