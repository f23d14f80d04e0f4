"""Each component may do what its code asks of the Kubernetes API, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipelines.release.kubernetes import permissions
from pipelines.settings import Settings
from tests.manifests.rendered import OVERLAYS, Body, named, of_kind

Right = tuple[str, str, str, str]
"""Namespace (empty: all), API group, resource, verb."""

NAMESPACE = Settings().kubernetes_namespace
GATEWAY_NAMESPACE = Settings().gateway.partition("/")[0]

both = pytest.mark.parametrize("overlay", OVERLAYS)


def rights_of(overlay: str, account: str, namespace: str) -> set[Right]:
    """Return what an account may do."""
    found: set[Right] = set()
    for binding in (*of_kind(overlay, "RoleBinding"), *of_kind(overlay, "ClusterRoleBinding")):
        if {"kind": "ServiceAccount", "name": account, "namespace": namespace} in binding["subjects"]:
            where = binding["metadata"].get("namespace", "")
            role = named(overlay, binding["roleRef"]["kind"], binding["roleRef"]["name"], where or None)
            found |= set(_rights(role, where))
    return found


def _rights(role: Body, namespace: str) -> Iterable[Right]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from ((namespace, group, resource, verb) for verb in rule["verbs"])


def asked_by(rules: Iterable[permissions.Rule]) -> set[Right]:
    """Return the rights that adapters of ours say that they need. A Role of a namespace covers reading it."""
    where = {"namespace": NAMESPACE, "gateway": GATEWAY_NAMESPACE, "cluster": ""}
    return {
        (NAMESPACE if rule.kind.plural == "namespaces" else where[rule.scope], rule.kind.group, rule.kind.plural, verb)
        for rule in rules
        for verb in rule.verbs
    }


@both
def test_the_controller_may_do_what_it_asks_for_and_nothing_else(overlay: str) -> None:
    assert rights_of(overlay, "slipway-controller", "slipway") == asked_by(permissions.CONTROLLER)


@both
@pytest.mark.parametrize("account", ["airflow-triggerer", "airflow-worker"])
def test_airflow_may_lower_a_weight_but_neither_make_nor_remove_a_route(overlay: str, account: str) -> None:
    rights = rights_of(overlay, account, "airflow")

    assert asked_by(permissions.DEAD_MAN) <= rights
    assert {verb for *_, resource, verb in rights if resource == "httproutes"} == {"get", "patch"}


@both
@pytest.mark.parametrize("account", ["slipway-step", "slipway-service", "airflow-dag-processor", "airflow-jobs"])
def test_who_never_asks_the_api_has_no_right_and_no_token(overlay: str, account: str) -> None:
    (body,) = [body for body in of_kind(overlay, "ServiceAccount") if body["metadata"]["name"] == account]

    assert body["automountServiceAccountToken"] is False
    assert rights_of(overlay, account, body["metadata"]["namespace"]) == set()


@both
def test_nobody_reads_secrets_runs_commands_in_pods_or_gives_rights(overlay: str) -> None:
    for role in (*of_kind(overlay, "Role"), *of_kind(overlay, "ClusterRole")):
        for rule in role["rules"]:
            assert not {"*", "secrets", "pods/exec", "pods/attach", "roles", "rolebindings"} & set(rule["resources"])
            assert not {"*", "bind", "escalate", "impersonate", "deletecollection"} & set(rule["verbs"])


@both
def test_every_binding_names_an_account_and_a_role_that_exist(overlay: str) -> None:
    for binding in (*of_kind(overlay, "RoleBinding"), *of_kind(overlay, "ClusterRoleBinding")):
        assert named(
            overlay, binding["roleRef"]["kind"], binding["roleRef"]["name"], binding["metadata"].get("namespace")
        )
        for subject in binding["subjects"]:
            assert named(overlay, "ServiceAccount", subject["name"], subject["namespace"])
