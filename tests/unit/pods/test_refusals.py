"""What the Kubernetes API refuses, in our words: object, verb, way out, and whether asking again may help."""

from __future__ import annotations

import json

import pytest

from pipelines.errors import PodLost, PodRefused, SlipwayError
from pipelines.pods.refusals import explain_configuration, explain_refusal
from pipelines.settings import Settings

SETTINGS = Settings(kubernetes_namespace="ml", kubernetes_context="prod")
RBAC = (
    'pods is forbidden: User "system:serviceaccount:airflow:worker" cannot create resource "pods" in API group "" in '
    'the namespace "ml"'
)
QUOTA = 'pods "p" is forbidden: exceeded quota: compute, requested: {}, used: requests.cpu=7, limited: requests.cpu=8'


def body(message: str) -> str:
    return json.dumps({"kind": "Status", "message": message})


@pytest.mark.parametrize(
    ("status", "message", "kind", "match"),
    [
        pytest.param(403, RBAC, PodRefused, "airflow:worker the verb create on pods in namespace ml", id="rbac"),
        pytest.param(403, QUOTA.format("requests.cpu=2"), PodLost, "when others have ended", id="quota-used-up"),
        pytest.param(403, QUOTA.format("requests.cpu=9"), PodRefused, "the whole quota", id="quota-too-small"),
        pytest.param(403, QUOTA.format("requests.cpu=8500m"), PodRefused, "whole quota", id="quota-in-thousandths"),
        pytest.param(
            403,
            'pods "p" is forbidden: exceeded quota: q, requested: memory=2Gi,pods=1, used: pods=9, limited: memory=1Gi',
            PodRefused,
            "the whole quota",
            id="quota-of-several",
        ),
        pytest.param(404, 'namespaces "ml" not found', PodRefused, "SLIPWAY_KUBERNETES_NAMESPACE", id="no-namespace"),
        pytest.param(
            403,
            'pods "p" is forbidden: error looking up service account ml/step: serviceaccount "step" not found',
            PodRefused,
            "SLIPWAY_STEP_SERVICE_ACCOUNT",
            id="no-service-account",
        ),
        pytest.param(
            403,
            'pods "p" is forbidden: violates PodSecurity "restricted:latest"',
            PodRefused,
            "allows less",
            id="security",
        ),
        pytest.param(403, "admission webhook denied the request", PodRefused, "a policy of the cluster", id="policy"),
        pytest.param(422, 'Pod "p" is invalid: spec', PodRefused, "correct `resources`", id="invalid"),
        pytest.param(401, "Unauthorized", PodLost, "renew the token or certificate of context 'prod'", id="expired"),
        pytest.param(500, "etcdserver: leader changed", PodLost, "tried again", id="server"),
        pytest.param(429, "too many requests", PodLost, "tried again", id="busy"),
        pytest.param(0, "timed out", PodLost, "tried again", id="no-answer"),
    ],
)
def test_a_refusal_names_object_verb_and_way_out(
    status: int, message: str, kind: type[SlipwayError], match: str
) -> None:
    error = explain_refusal(status, body(message), "create pod ml/p", SETTINGS)
    assert type(error) is kind
    assert str(error).startswith(f"kubernetes: create pod ml/p: {message}")
    with pytest.raises(SlipwayError, match=match):
        raise error


def test_an_answer_that_is_no_status_is_shown_as_it_is() -> None:
    error = explain_refusal(503, "<html>\n  upstream  down</html>", "create pod ml/p", SETTINGS)
    assert "<html> upstream down</html> (503)" in str(error)


def test_a_context_that_is_not_there_is_named() -> None:
    error = explain_configuration("Expected object with name prod in contexts list", SETTINGS)
    assert not error.retryable
    assert "load context 'prod'" in str(error)
    assert "SLIPWAY_KUBERNETES_CONTEXT" in str(error)
