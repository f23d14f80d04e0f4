"""What the Kubernetes API refuses, in our words: object, verb, way out, and what to make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.cluster.refusals import Asked, Outcome, Refusal, explain
from pipelines.settings import Settings

SETTINGS = Settings(kubernetes_namespace="ml", kubernetes_context="prod")
ASKED = Asked("create pod ml/p")
RBAC = (
    'pods is forbidden: User "system:serviceaccount:airflow:worker" cannot create resource "pods" in API group "" in '
    'the namespace "ml"'
)
RBAC_OF_ALL = 'nodes is forbidden: User "worker" cannot list resource "nodes" in API group "" at the cluster scope'
RBAC_OF_GROUP = 'x is forbidden: User "c" cannot patch resource "deployments" in API group "apps" in the namespace "ml"'
QUOTA = 'pods "p" is forbidden: exceeded quota: compute, requested: {}, used: requests.cpu=7, limited: requests.cpu=8'


def refusal(status: int, message: str, asked: Asked = ASKED, **details: Any) -> Refusal:
    """Return what an answer of the API means."""
    return explain(status, json.dumps({"kind": "Status", "message": message, "details": details}), asked, SETTINGS)


@pytest.mark.parametrize(
    ("status", "message", "outcome", "way_out"),
    [
        pytest.param(
            403,
            RBAC,
            Outcome.REFUSED,
            "give system:serviceaccount:airflow:worker the verb create on pods in namespace ml",
            id="rbac",
        ),
        pytest.param(403, RBAC_OF_ALL, Outcome.REFUSED, "the verb list on nodes in all of the cluster", id="rbac-all"),
        pytest.param(403, RBAC_OF_GROUP, Outcome.REFUSED, "the verb patch on deployments.apps", id="rbac-group"),
        pytest.param(403, QUOTA.format("requests.cpu=2"), Outcome.FULL, "when others have ended", id="quota-used"),
        pytest.param(403, QUOTA.format("requests.cpu=9"), Outcome.REFUSED, "the whole quota", id="quota-too-small"),
        pytest.param(
            403, QUOTA.format("requests.cpu=8500m"), Outcome.REFUSED, "whole quota", id="quota-in-thousandths"
        ),
        pytest.param(
            403,
            'pods "p" is forbidden: exceeded quota: q, requested: memory=2Gi,pods=1, used: pods=9, limited: memory=1Gi',
            Outcome.REFUSED,
            "the whole quota",
            id="quota-of-several",
        ),
        pytest.param(
            403,
            'pods "p" is forbidden: error looking up service account ml/step: serviceaccount "step" not found',
            Outcome.REFUSED,
            "SLIPWAY_STEP_SERVICE_ACCOUNT",
            id="no-service-account",
        ),
        pytest.param(
            403,
            'pods "p" is forbidden: violates PodSecurity "restricted:latest"',
            Outcome.REFUSED,
            "allows less than the pod needs",
            id="security",
        ),
        pytest.param(
            403,
            'pods "p" is forbidden: unable to create new content in namespace ml because it is being terminated',
            Outcome.REFUSED,
            "make it anew",
            id="namespace-ends",
        ),
        pytest.param(
            403, "admission webhook denied the request", Outcome.REFUSED, "a policy of the cluster", id="policy"
        ),
        pytest.param(422, 'Pod "p" is invalid: spec', Outcome.REFUSED, "correct `resources`", id="invalid"),
        pytest.param(409, 'pods "p" already exists', Outcome.CONFLICT, "", id="taken"),
        pytest.param(
            422,
            "the server rejected our request due to an error in our request",
            Outcome.CONFLICT,
            "",
            id="patch-that-does-not-fit",
        ),
        pytest.param(
            401, "Unauthorized", Outcome.UNAVAILABLE, "renew the token or certificate of context 'prod'", id="expired"
        ),
        pytest.param(
            500, "etcdserver: leader changed", Outcome.UNAVAILABLE, "(status 500); it is tried again", id="server"
        ),
        pytest.param(429, "too many requests", Outcome.UNAVAILABLE, "tried again", id="busy"),
        pytest.param(
            0, "timed out", Outcome.UNAVAILABLE, "does not answer: look whether context 'prod'", id="no-answer"
        ),
    ],
)
def test_a_refusal_names_object_verb_and_way_out(status: int, message: str, outcome: Outcome, way_out: str) -> None:
    found = refusal(status, message)
    assert found.outcome is outcome
    assert found.message.startswith(f"kubernetes: create pod ml/p: {message}")
    assert way_out in found.message


def test_the_section_of_the_spec_is_that_of_whoever_asked() -> None:
    found = refusal(422, "invalid: spec", Asked("patch Deployment docs", "deployments.apps", section="serving"))
    assert found.message.endswith("correct `serving` of the spec or the SLIPWAY_* settings")


def test_an_object_that_is_not_there_is_no_missing_namespace() -> None:
    named = {"name": "ml", "kind": "namespaces"}
    assert refusal(404, 'pods "p" not found', name="p", kind="pods").outcome is Outcome.ABSENT
    missing = refusal(404, 'namespaces "ml" not found', **named)
    assert missing.outcome is Outcome.REFUSED
    assert "make the namespace, or set SLIPWAY_KUBERNETES_NAMESPACE" in missing.message
    read = Asked("get Namespace ml", "namespaces", section="serving")
    assert refusal(404, 'namespaces "ml" not found', read, **named).outcome is Outcome.ABSENT


@pytest.mark.parametrize(
    ("resource", "way_out"),
    [
        ("httproutes.gateway.networking.k8s.io", "install the Gateway API (v1)"),
        ("horizontalpodautoscalers.autoscaling", "its version may be too old"),
    ],
)
def test_a_kind_that_the_cluster_does_not_know_is_named(resource: str, way_out: str) -> None:
    found = refusal(404, "the server could not find the requested resource", Asked("get x", resource))
    assert found.outcome is Outcome.REFUSED
    assert f"the cluster knows no {resource}; {way_out}" in found.message


def test_causes_are_told_once() -> None:
    causes = [{"message": "testing path /spec failed"}, {"message": "Invalid"}]
    assert refusal(409, "Invalid", causes=causes).message.endswith(": Invalid; testing path /spec failed")


def test_an_answer_that_is_no_status_is_shown_as_it_is() -> None:
    found = explain(503, "<html>\n  upstream  down</html>", ASKED, SETTINGS)
    assert found.outcome is Outcome.UNAVAILABLE
    assert "create pod ml/p: <html> upstream down</html>; " in found.message
