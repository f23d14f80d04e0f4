"""What the adapters may do, and what they do: accounts with exactly the rights of the tables, on the double."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipelines.release.kubernetes import permissions
from pipelines.release.kubernetes.cluster import ClusterRefused
from pipelines.release.kubernetes.permissions import Rule
from pipelines.release.ports import FULL_BP, Observed, Route, RouterUnavailable, Split
from tests.cluster.access import service_account
from tests.steps.kubernetes_case import GATEWAY_NAMESPACE, NAMESPACE, Case, running

PLACES = {"namespace": NAMESPACE, "gateway": GATEWAY_NAMESPACE, "cluster": ""}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Return a cluster with a Gateway."""
    with running(tmp_path, monkeypatch) as found:
        yield found


def become(case: Case, name: str, rules: Sequence[Rule], monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the adapters run under an account that has these rights, and no others; return its name."""
    group = "rbac.authorization.k8s.io"
    about = {"apiVersion": f"{group}/v1"}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    by_place: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        by_place[rule.scope].append(rule)
    for scope, held in by_place.items():
        kind = "ClusterRole" if scope == "cluster" else "Role"
        allowed = [
            {"apiGroups": [rule.kind.group], "resources": [rule.kind.plural], "verbs": sorted(rule.verbs)}
            for rule in held
        ]
        metadata = {"name": f"{name}-{scope}", **({"namespace": PLACES[scope]} if PLACES[scope] else {})}
        case.double.create({**about, "kind": kind, "metadata": metadata, "rules": allowed})
        reference = {"apiGroup": group, "kind": kind, "name": metadata["name"]}
        binding = {**about, "kind": f"{kind}Binding", "metadata": metadata, "subjects": [subject], "roleRef": reference}
        case.double.create(binding)
    user = service_account(NAMESPACE, name)
    monkeypatch.setenv("KUBECONFIG", str(case.double.kubeconfig_of(user, NAMESPACE)))
    case.connect()
    return user


def route(case: Case, canary_bp: int) -> Route:
    return Route("docs", 8100, case.target("one"), case.target("two"), Split(canary_bp))


def test_the_controllers_rights_are_those_that_it_uses(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    user = become(case, "slipway-controller", permissions.CONTROLLER, monkeypatch)
    version = case.version("one")
    case.fleet.start(version)
    case.fleet.start(version)
    case.fleet.ready(version.copy_name)
    case.fleet.list()
    case.router.apply(route(case, 500), 1)
    case.router.apply(route(case, FULL_BP), 2)
    case.router.observe("docs")
    with pytest.raises(RouterUnavailable):
        case.router.counts("docs", None)
    case.stop(version.copy_name)
    for body in case.bodies(version)[1:]:  # what nobody owns: a crash between the Deployment's end and theirs
        case.cluster.apply(body)
    case.stop(version.copy_name)

    seen = [found for found in case.double.seen() if found.user == user]
    assert {found.code for found in seen} <= {200, 201, 404}
    used = {(found.resource, found.verb) for found in seen}
    allowed = {(rule.kind.plural, verb) for rule in permissions.CONTROLLER for verb in rule.verbs}
    applied = {(resource, "create") for resource, verb in used if verb == "patch"}
    assert used <= allowed
    assert allowed <= used | applied, "a right that nobody uses"


def test_the_dead_man_may_lower_a_weight_and_start_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.router.apply(route(case, 5000), 1)
    become(case, "slipway-dead-man", permissions.DEAD_MAN, monkeypatch)
    assert not case.fleet.ready("docs-one")
    case.router.apply(route(case, 0), 2)
    assert case.router.observe("docs") == Observed(route(case, 0), 2)

    with pytest.raises(ClusterRefused, match=r"slipway-dead-man the verb patch on deployments\.apps"):
        case.fleet.start(case.version("two"))
    with pytest.raises(ClusterRefused, match=r"slipway-dead-man the verb list on deployments\.apps"):
        case.fleet.stop("docs-one")
