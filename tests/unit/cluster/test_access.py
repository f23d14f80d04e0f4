"""By which kubeconfig or account the API is reached: one rule for every client."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cluster.access import Access, access, unusable
from pipelines.settings import Settings

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
SAID = {"KUBECONFIG": "/etc/one:/etc/two"}


@pytest.mark.parametrize(
    ("context", "variables", "expected"),
    [
        pytest.param("", IN_A_POD, Access(None, None), id="a-pod-has-its-account"),
        pytest.param("", IN_A_POD | SAID, Access("/etc/one:/etc/two", None), id="a-pod-that-was-given-a-kubeconfig"),
        pytest.param("prod", IN_A_POD, Access("/root/.kube/config", "prod"), id="a-pod-that-was-given-a-context"),
        pytest.param("prod", IN_A_POD | SAID, Access("/etc/one:/etc/two", "prod"), id="a-pod-that-was-given-both"),
        pytest.param("", SAID, Access("/etc/one:/etc/two", None), id="a-kubeconfig"),
        pytest.param("", {}, Access("/root/.kube/config", None), id="what-kubectl-would-use"),
    ],
)
def test_what_somebody_said_counts_first(
    context: str, variables: dict[str, str], expected: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))

    found = access(Settings(kubernetes_context=context))

    assert found == expected
    assert found.is_in_cluster == (expected.file is None)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Access(None, None), "the pod's service account"),
        (Access("/etc/one", None), "the current context of /etc/one"),
        (Access("/etc/one", "prod"), "context 'prod' of /etc/one"),
    ],
)
def test_messages_name_what_is_used(found: Access, words: str) -> None:
    assert str(found) == words


def test_a_context_that_is_not_there_is_named_and_not_tried_again() -> None:
    error = unusable(Settings(kubernetes_context="prod"), "Expected object with name prod in contexts list")
    assert not error.retryable
    assert "load context 'prod' of " in str(error)
    assert "set SLIPWAY_KUBERNETES_CONTEXT to a name that" in str(error)
