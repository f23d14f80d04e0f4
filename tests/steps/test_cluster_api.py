"""The API of the tests' cluster through the official client: its refusals are those of the real server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from tests.cluster import Cluster, Fault, Faults
from tests.cluster.access import service_account
from tests.cluster.faults import NO_FAULTS
from tests.cluster.kinds import CONFIG_MAP, HTTP_ROUTE, custom
from tests.cluster.podsecurity import LABEL
from tests.cluster.selectors import Object

ROUTES = ("gateway.networking.k8s.io", "v1", "slipway", "httproutes")


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """A cluster that the tests of this file share."""
    with Cluster() as running:
        yield running


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """Return the shared cluster, and leave nothing in it."""
    yield shared
    shared.use(NO_FAULTS)
    shared.clear()


@pytest.fixture
def api(cluster: Cluster) -> client.ApiClient:
    """The administrator."""
    return api_of(cluster.kubeconfig)


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    """The administrator, for objects of the core."""
    return client.CoreV1Api(api)


def api_of(kubeconfig: Path) -> client.ApiClient:
    """Return a client for a kubeconfig; it tries once."""
    found: client.ApiClient = config.new_client_from_config(str(kubeconfig))
    found.configuration.retries = False
    return client.ApiClient(found.configuration)


def refusal(call: Callable[[], object]) -> tuple[int, str, str]:
    """Return code, reason and message of a refused call."""
    with pytest.raises(ApiException) as caught:
        call()
    told = json.loads(caught.value.body)
    assert (told["kind"], told["code"]) == ("Status", caught.value.status)
    return told["code"], told["reason"], told["message"]


def note(name: str = "note", **data: str) -> Object:
    """Return the manifest of a ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str = "step", **spec: Any) -> Object:
    """Return the manifest of a pod that no node has."""
    containers = [{"name": "base", "image": "slipway:1", "command": ["python", "-c", "pass"]}]
    body = {"containers": containers, "restartPolicy": "Never", "nodeSelector": {"none": "such"}, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def route(weight: int = 100) -> Object:
    """Return the manifest of an HTTPRoute."""
    backends = [{"name": "one", "port": 80, "weight": weight}]
    spec = {"hostnames": ["docs"], "rules": [{"backendRefs": backends}]}
    return {"apiVersion": HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": {"name": "docs"}, "spec": spec}


WEIGHT = "/spec/rules/0/backendRefs/0/weight"


def test_refusals_name_the_object(cluster: Cluster, core: client.CoreV1Api) -> None:
    assert refusal(lambda: core.read_namespaced_config_map("none", "slipway")) == (
        404,
        "NotFound",
        'configmaps "none" not found',
    )
    core.create_namespaced_config_map("slipway", note())
    assert refusal(lambda: core.create_namespaced_config_map("slipway", note()))[:2] == (409, "AlreadyExists")
    missing = refusal(lambda: core.create_namespaced_config_map("elsewhere", note()))
    assert missing == (404, "NotFound", 'namespaces "elsewhere" not found')
    assert refusal(lambda: core.create_namespaced_config_map("slipway", note("No_Name")))[:2] == (422, "Invalid")


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        pytest.param({"containers": []}, 422, "spec.containers: Required value", id="no-container"),
        pytest.param({"serviceAccountName": "none"}, 403, 'serviceaccount "none" not found', id="no-account"),
        pytest.param({"priorityClassName": "none"}, 403, "no PriorityClass with name none", id="no-priority"),
        pytest.param({"runtimeClassName": "none"}, 403, 'RuntimeClass "none" not found', id="no-runtime"),
    ],
)
def test_bad_pods_are_refused(core: client.CoreV1Api, spec: Object, code: int, message: str) -> None:
    found = refusal(lambda: core.create_namespaced_pod("slipway", pod(**spec)))
    assert found[0] == code
    assert message in found[2]


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        pytest.param({}, "", id="as-it-must-be"),
        pytest.param({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation != false", id="escalation"),
        pytest.param({"capabilities": {}}, "unrestricted capabilities", id="capabilities"),
        pytest.param({"runAsUser": 0}, "runAsUser=0", id="root"),
        pytest.param({"seccompProfile": None}, "seccompProfile", id="seccomp"),
    ],
)
def test_a_restricted_namespace_takes_restricted_pods(core: client.CoreV1Api, context: Object, problem: str) -> None:
    core.patch_namespace("slipway", {"metadata": {"labels": {LABEL: "restricted"}}})
    manifest = pod()
    manifest["spec"]["containers"][0]["securityContext"] = {**RESTRICTED, **context}
    try:
        if not problem:
            core.create_namespaced_pod("slipway", manifest)
            return
        code, _, message = refusal(lambda: core.create_namespaced_pod("slipway", manifest))
        assert code == 403
        assert f'violates PodSecurity "restricted:latest": {problem}' in message
    finally:
        core.patch_namespace("slipway", {"metadata": {"labels": {LABEL: None}}})


def test_of_two_writers_the_slower_meets_a_conflict(core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("slipway", note(a="1"))
    mine, theirs = (core.read_namespaced_config_map("note", "slipway") for _ in range(2))
    theirs.data["a"] = "2"
    core.replace_namespaced_config_map("note", "slipway", theirs)
    mine.data["a"] = "3"
    code, reason, message = refusal(lambda: core.replace_namespaced_config_map("note", "slipway", mine))
    assert (code, reason) == (409, "Conflict")
    assert "the object has been modified" in message


def test_a_json_patch_with_a_test_is_done_whole_or_not(cluster: Cluster, api: client.ApiClient) -> None:
    custom_objects = client.CustomObjectsApi(api)
    custom_objects.create_namespaced_custom_object(*ROUTES, route())
    held = {"op": "test", "path": WEIGHT, "value": 100}
    change = {"op": "replace", "path": WEIGHT, "value": 5}
    how = {"_content_type": "application/json-patch+json"}
    patched = custom_objects.patch_namespaced_custom_object(*ROUTES, "docs", [held, change], **how)
    assert patched["metadata"]["generation"] == 2
    again = [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}, held]
    with pytest.raises(ApiException) as caught:
        custom_objects.patch_namespaced_custom_object(*ROUTES, "docs", again, **how)
    told = json.loads(caught.value.body)
    assert (told["code"], told["reason"]) == (422, "Invalid")
    assert told["details"]["causes"][0]["message"] == f"testing value {WEIGHT} failed: test failed"
    assert "labels" not in cluster.get(HTTP_ROUTE, "docs")["metadata"]


def test_custom_resources_take_no_strategic_merge_patch(api: client.ApiClient) -> None:
    custom_objects = client.CustomObjectsApi(api)
    custom_objects.create_namespaced_custom_object(*ROUTES, route())
    strategic = {"_content_type": "application/strategic-merge-patch+json"}
    body = {"metadata": {"labels": {"a": "b"}}}
    patch = custom_objects.patch_namespaced_custom_object
    assert refusal(lambda: patch(*ROUTES, "docs", body, **strategic))[0] == 415
    merged = patch(*ROUTES, "docs", body, _content_type="application/merge-patch+json")
    assert merged["metadata"]["labels"] == {"a": "b"}
    assert merged["metadata"]["generation"] == 1


def test_the_status_has_a_door_of_its_own(cluster: Cluster, api: client.ApiClient) -> None:
    custom_objects = client.CustomObjectsApi(api)
    made = custom_objects.create_namespaced_custom_object(*ROUTES, route())
    told = {**made, "status": {"parents": []}, "spec": {}}
    how = {"_content_type": "application/merge-patch+json"}
    custom_objects.patch_namespaced_custom_object_status(*ROUTES, "docs", told, **how)
    custom_objects.replace_namespaced_custom_object(*ROUTES, "docs", {**cluster.get(HTTP_ROUTE, "docs"), "status": {}})
    found = cluster.get(HTTP_ROUTE, "docs")
    assert (found["status"], found["spec"]) == ({"parents": []}, route()["spec"])


def test_a_pod_is_merged_by_names_and_its_command_stays(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("slipway", pod())
    patched = core.patch_namespaced_pod("step", "slipway", {"metadata": {"labels": {"already_checked": "True"}}})
    assert patched.metadata.labels == {"already_checked": "True"}
    body = {"spec": {"containers": [{"name": "base", "image": "slipway:2"}]}}
    assert core.patch_namespaced_pod("step", "slipway", body).spec.containers[0].command == ["python", "-c", "pass"]
    body["spec"]["containers"][0]["command"] = ["sh"]
    assert refusal(lambda: core.patch_namespaced_pod("step", "slipway", body))[0] == 422


def test_apply_makes_or_changes_and_a_trial_keeps_nothing(cluster: Cluster, core: client.CoreV1Api) -> None:
    how = {"field_manager": "slipway", "_content_type": "application/apply-patch+yaml"}
    core.patch_namespaced_config_map("note", "slipway", note(a="1"), dry_run="All", **how)
    assert cluster.store.find(CONFIG_MAP, "slipway", "note") is None
    core.patch_namespaced_config_map("note", "slipway", note(a="1"), **how)
    core.patch_namespaced_config_map("note", "slipway", note(b="2"), **how)
    assert cluster.get(CONFIG_MAP, "note")["data"] == {"a": "1", "b": "2"}
    del how["field_manager"]
    assert refusal(lambda: core.patch_namespaced_config_map("note", "slipway", note(), **how))[0] == 400


@pytest.mark.parametrize(
    ("labels", "fields", "names"),
    [
        pytest.param("app=a", "", ["one"], id="equal"),
        pytest.param("app!=a", "", ["three", "two"], id="not-equal"),
        pytest.param("app in (a, b),!old", "", ["one"], id="set-and-missing"),
        pytest.param("old", "", ["two"], id="exists"),
        pytest.param("", "metadata.name=two", ["two"], id="field"),
        pytest.param("", "status.phase=Running", [], id="phase"),
    ],
)
def test_selectors(core: client.CoreV1Api, labels: str, fields: str, names: list[str]) -> None:
    for name, worn in (("one", {"app": "a"}), ("two", {"app": "b", "old": "yes"}), ("three", {})):
        manifest = pod(name)
        core.create_namespaced_pod("slipway", {**manifest, "metadata": {"name": name, "labels": worn}})
    found = core.list_namespaced_pod("slipway", label_selector=labels, field_selector=fields).items
    assert [row.metadata.name for row in found] == names


def test_an_unknown_field_selector_is_refused(core: client.CoreV1Api) -> None:
    assert refusal(lambda: core.list_namespaced_config_map("slipway", field_selector="data.a=1"))[0] == 400


def test_a_watch_goes_on_from_a_version(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("slipway", note("before"))
    version = core.list_namespaced_config_map("slipway").metadata.resource_version
    core.create_namespaced_config_map("slipway", note("after"))
    core.patch_namespaced_config_map("after", "slipway", {"data": {"a": "1"}})
    core.delete_namespaced_config_map("after", "slipway")
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, "slipway", resource_version=version, timeout_seconds=1
    )
    kinds_seen = [(event["type"], event["object"].metadata.name) for event in stream]
    assert kinds_seen == [("ADDED", "after"), ("MODIFIED", "after"), ("DELETED", "after")]
    cluster.store.forget_history()
    with pytest.raises(ApiException) as caught:
        list(watch.Watch().stream(core.list_namespaced_config_map, "slipway", resource_version=version))
    assert caught.value.status == 410


def test_owned_objects_go_with_their_owner(cluster: Cluster, core: client.CoreV1Api) -> None:
    owner = core.create_namespaced_config_map("slipway", note("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    owned = note("owned")
    core.create_namespaced_config_map(
        "slipway", {**owned, "metadata": {"name": "owned", "ownerReferences": [reference]}}
    )
    before = core.list_namespaced_config_map("slipway").metadata.resource_version
    core.delete_namespaced_config_map("owner", "slipway", propagation_policy="Foreground")
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, "slipway", resource_version=before, timeout_seconds=60
    )
    gone = (event["object"].metadata.name for event in stream if event["type"] == "DELETED")
    assert list(itertools.islice(gone, 2)) == ["owned", "owner"]
    assert cluster.list(CONFIG_MAP) == []


def test_an_unknown_token_is_refused(cluster: Cluster) -> None:
    api = api_of(cluster.kubeconfig_of("somebody"))
    cluster.access.revoke("somebody")
    assert refusal(lambda: client.CoreV1Api(api).list_namespaced_pod("slipway"))[0] == 401


def may(api: client.ApiClient, verb: str, resource: str) -> bool:
    """Ask the API whether a user may do something."""
    attributes = {"namespace": "slipway", "verb": verb, "resource": resource}
    review = {"spec": {"resourceAttributes": attributes}}
    reviewed = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    return bool(reviewed.status.allowed)


def test_a_service_account_may_do_what_its_role_says(cluster: Cluster, api: client.ApiClient) -> None:
    roles = client.RbacAuthorizationV1Api(api)
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]
    roles.create_namespaced_role("slipway", {"metadata": {"name": "reader"}, "rules": rules})
    subjects = [{"kind": "ServiceAccount", "name": "step", "namespace": "slipway"}]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    binding = {"metadata": {"name": "reader"}, "subjects": subjects, "roleRef": reference}
    roles.create_namespaced_role_binding("slipway", binding)
    account = api_of(cluster.kubeconfig_of(service_account("slipway", "step")))
    assert client.CoreV1Api(account).list_namespaced_pod("slipway").items == []
    code, reason, message = refusal(lambda: client.CoreV1Api(account).create_namespaced_pod("slipway", pod()))
    assert (code, reason) == (403, "Forbidden")
    assert 'User "system:serviceaccount:slipway:step" cannot create resource "pods" in API group ""' in message
    assert (may(account, "list", "pods"), may(account, "create", "pods")) == (True, False)
    assert refusal(lambda: client.CoreV1Api(account).list_namespaced_pod("default"))[0] == 403


def test_a_forbidden_verb_is_forbidden_to_all(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.access.forbid("list", "pods")
    try:
        assert refusal(lambda: core.list_namespaced_pod("slipway"))[0] == 403
    finally:
        cluster.access.allow("list", "pods")
    assert core.list_namespaced_pod("slipway").items == []


@pytest.mark.parametrize(
    "hard", [{"pods": "1"}, {"count/pods": "1"}, {"requests.cpu": "1"}], ids=lambda hard: next(iter(hard))
)
def test_a_used_up_quota_refuses(core: client.CoreV1Api, hard: dict[str, str]) -> None:
    core.create_namespaced_resource_quota("slipway", {"metadata": {"name": "small"}, "spec": {"hard": hard}})
    manifest = pod("first")
    manifest["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "600m"}}
    core.create_namespaced_pod("slipway", manifest)
    code, reason, message = refusal(
        lambda: core.create_namespaced_pod("slipway", {**manifest, "metadata": {"name": "b"}})
    )
    assert (code, reason) == (403, "Forbidden")
    assert f"exceeded quota: small, requested: {next(iter(hard))}" in message


def test_a_test_may_define_a_type(cluster: Cluster, api: client.ApiClient) -> None:
    place = ("kueue.x-k8s.io", "v1beta1", "slipway", "localqueues")
    queues = client.CustomObjectsApi(api)
    assert refusal(lambda: queues.list_namespaced_custom_object(*place))[0] == 404
    cluster.define(custom("kueue.x-k8s.io", "v1beta1", "LocalQueue", "localqueues"))
    body = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": {"name": "queue"}}
    queues.create_namespaced_custom_object(*place, body)
    assert [row["metadata"]["name"] for row in queues.list_namespaced_custom_object(*place)["items"]] == ["queue"]


def history(cluster: Cluster, core: client.CoreV1Api, faults: Faults) -> list[str]:
    """Return what became of each of 40 calls under a schedule."""
    cluster.use(faults)
    ends = []
    for number in range(40):
        try:
            core.create_namespaced_config_map("slipway", note(f"note-{number}"), _request_timeout=5)
            ends.append("done")
        except ApiException as error:
            ends.append(str(error.status))
        except urllib3.exceptions.HTTPError as error:
            ends.append(type(error).__name__)
    cluster.use(NO_FAULTS)
    return ends


def test_a_schedule_of_faults_is_its_seeds(cluster: Cluster, core: client.CoreV1Api) -> None:
    schedules = [Faults(seed, rate=0.5, silence_seconds=0.01) for seed in (1, 1, 2)]
    ends = []
    for faults in schedules:
        cluster.clear()
        ends.append(history(cluster, core, faults))
    assert ends[0] == ends[1] != ends[2]
    assert {"done", "409", "401", "500", "ProtocolError"} == set(ends[0])
    done = schedules[0].done
    assert done[Fault.LOST_ANSWER]
    assert done[Fault.LOST_REQUEST]


def test_what_a_lost_answer_was_about_is_done(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.use(Faults(1, rate=1.0, kinds=frozenset({Fault.LOST_ANSWER}), silence_seconds=0.01))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        core.create_namespaced_config_map("slipway", note())
    assert cluster.get(CONFIG_MAP, "note")


def test_a_lost_watch_breaks_in_the_middle(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("slipway", note())
    cluster.use(Faults(1, rate=1.0, kinds=frozenset({Fault.LOST_WATCH})))
    response = core.list_namespaced_config_map("slipway", watch=True, timeout_seconds=30, _preload_content=False)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        response.read()
