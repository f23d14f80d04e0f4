"""The HTTPRoute router against the double of a cluster."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import RouterRejected
from pipelines.release.kubernetes import router as routers
from pipelines.release.kubernetes import routes
from pipelines.release.kubernetes.cluster import Conflict
from pipelines.release.kubernetes.router import NOT_IN_FORCE
from pipelines.release.ports import FULL_BP, Address, Capability, Observed, Route, RouterUnavailable, Sessions, Split
from tests.cluster.kinds import GATEWAY, HTTP_ROUTE
from tests.steps.kubernetes_case import GATEWAY_NAMESPACE, Case, running
from tests.steps.live import wait_for


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Return a cluster with a Gateway."""
    with running(tmp_path, monkeypatch) as found:
        yield found


def route(case: Case, canary_bp: int = 0, **more: Any) -> Route:
    return Route("docs", 8100, case.target("one"), case.target("two"), Split(canary_bp), **more)


def held(case: Case) -> dict[str, Any]:
    return case.double.get(HTTP_ROUTE, "docs")


def has_looked(case: Case) -> bool:
    """Say whether the Gateway's controller has looked at the present generation of the route."""
    found = held(case)
    rows = [row for parent in found["status"]["parents"] for row in parent["conditions"]]
    return {row["observedGeneration"] for row in rows} == {found["metadata"]["generation"]}


def test_a_route_is_in_force_when_the_gateway_has_accepted_it(case: Case) -> None:
    assert case.router.observe("docs") is None
    wanted = route(case, 500, is_idempotent=True, silence_seconds=7)
    case.router.apply(wanted, 3)
    assert case.router.observe("docs") == Observed(wanted, 3)
    assert held(case)["spec"]["hostnames"] == ["docs"]


def test_applying_a_route_again_changes_nothing(case: Case) -> None:
    case.router.apply(route(case, 500), 3)
    before = held(case)["metadata"]["resourceVersion"]
    case.router.apply(route(case, 500), 3)
    assert held(case)["metadata"]["resourceVersion"] == before


def test_an_older_generation_is_refused_and_a_newer_one_wins(case: Case) -> None:
    case.router.apply(route(case, 5000), 7)
    with pytest.raises(RouterRejected, match="generation 6 of docs is older than 7, which was accepted"):
        case.router.apply(route(case, 9000), 6)
    lowered = route(case)
    case.router.apply(lowered, 8)
    assert case.router.observe("docs") == Observed(lowered, 8)


def test_of_two_writers_the_newer_order_wins_whoever_writes_first(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The triggerer lowers the weight between the controller's reading and its writing."""
    case.router.apply(route(case, 500), 3)
    patch, lowered = case.cluster.patch, []

    def patched(*arguments: Any) -> Any:
        if not lowered:
            lowered.append(True)
            other = routers.HttpRouteRouter(case.settings, case.cluster, case.gateway)
            other.apply(route(case), 9)
        return patch(*arguments)

    monkeypatch.setattr(case.cluster, "patch", patched)
    with pytest.raises(RouterRejected, match="generation 4 of docs is older than 9"):
        case.router.apply(route(case, 2500), 4)
    assert case.router.observe("docs") == Observed(route(case), 9)


def test_annotations_of_others_stay(case: Case) -> None:
    case.router.apply(route(case), 1)
    operation = {"op": "add", "path": "/metadata/annotations/example.org~1owner", "value": "somebody"}
    case.cluster.patch(routers.HTTP_ROUTE, "docs", [operation])
    case.router.apply(route(case, 500), 2)
    assert held(case)["metadata"]["annotations"]["example.org/owner"] == "somebody"


def test_a_route_that_is_not_accepted_yet_is_not_in_force(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.controller.is_asleep = True
    with monkeypatch.context() as impatient:
        impatient.setattr(routers, "ACCEPT_SECONDS", 0.5)
        with pytest.raises(
            RouterRejected, match="the controller of Gateway envoy-gateway-system/slipway has not looked at it"
        ):
            case.router.apply(route(case, 500), 3)
    assert case.router.observe("docs") == Observed(route(case, 500), NOT_IN_FORCE)
    assert routes.IN_FORCE_AT not in held(case)["metadata"]["annotations"]

    case.controller.is_asleep = False
    case.router.apply(route(case, 500), 3)
    assert case.router.observe("docs") == Observed(route(case, 500), 3)


def test_a_refused_route_leaves_the_old_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.router.apply(route(case, 500), 3)
    monkeypatch.setattr(routers, "ACCEPT_SECONDS", 0.0)
    patch = case.cluster.patch

    def patched(*arguments: Any) -> Any:
        written = patch(*arguments)
        wait_for(lambda: has_looked(case), "the controller has looked")
        return written

    monkeypatch.setattr(case.cluster, "patch", patched)
    case.controller.refusal = "no such listener"
    with pytest.raises(RouterRejected, match="Accepted is False: NotAllowed: no such listener"):
        case.router.apply(route(case, FULL_BP), 4)
    case.controller.refusal = ""
    assert routes.parse(held(case), "slipway") == Observed(route(case, 500), 3)


def test_a_weight_that_was_changed_by_hand_is_seen_and_mended(case: Case) -> None:
    case.router.apply(route(case, 500), 3)
    path = f"/spec/rules/{routes.USERS}/backendRefs/1/weight"
    case.cluster.patch(routers.HTTP_ROUTE, "docs", [{"op": "replace", "path": path, "value": 9999}])
    seen = case.router.observe("docs")
    assert seen is not None
    assert seen.route.split.canary_bp == 9999
    case.router.apply(route(case, 500), 3)
    assert case.router.observe("docs") == Observed(route(case, 500), 3)


def test_a_route_that_is_none_of_ours_is_named_and_left_alone(case: Case) -> None:
    case.double.create(
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "docs"}, "spec": {}}
    )
    with pytest.raises(RouterRejected, match="HTTPRoute docs in namespace slipway is not as Slipway writes it"):
        case.router.apply(route(case), 1)


def test_what_the_gateway_can_do_is_known_by_its_controller(case: Case) -> None:
    assert case.router.capabilities == {Capability.MIRROR, Capability.COUNTS}


def test_sessions_are_never_counted_as_requests(case: Case) -> None:
    case.router.apply(route(case, session_header="X-User"), 1)
    with pytest.raises(RouterUnavailable, match="sessions cannot be counted here"):
        case.router.counts("docs", None, Sessions("after:1", 60))


def test_nothing_is_counted_of_an_endpoint_that_is_not_there(case: Case) -> None:
    with pytest.raises(RouterUnavailable, match="there is no HTTPRoute of docs"):
        case.router.counts("docs", None)
    assert case.router.drain("docs", "docs-one") == 0


@pytest.mark.parametrize(
    ("status", "setting", "address"),
    [
        pytest.param({"addresses": [{"value": "10.1.2.3"}]}, "", Address("10.1.2.3", 80), id="of-its-status"),
        pytest.param({}, "gateway.local:8080", Address("gateway.local", 8080), id="of-the-settings"),
    ],
)
def test_the_gateway_is_reached_at_its_address(
    case: Case, status: dict[str, Any], setting: str, address: Address
) -> None:
    case.double.store.set_status(GATEWAY, GATEWAY_NAMESPACE, "slipway", lambda found: {**found, "status": status})
    case.connect(gateway_address=setting)
    assert case.gateway.address() == address


@pytest.fixture
def silent_prometheus() -> Iterator[str]:
    """Return the URL of one that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_lower_weight_does_not_wait_for_a_silent_prometheus(
    case: Case, silent_prometheus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.router.apply(route(case, 500), 1)
    case.connect(prometheus=silent_prometheus)
    patch, lowered_at, conflicts = case.cluster.patch, [], [Conflict("its status changed")] * 3

    def patched(*arguments: Any) -> Any:
        if conflicts:
            raise conflicts.pop()
        written = patch(*arguments)
        lowered_at.append(time.monotonic())
        return written

    monkeypatch.setattr(case.cluster, "patch", patched)
    begun = time.monotonic()
    case.router.apply(route(case), 2)
    assert lowered_at[0] - begun < 2
    assert case.router.observe("docs") == Observed(route(case), 2)


def test_a_lower_weight_needs_no_prometheus(case: Case) -> None:
    """The tests' Prometheus does not exist; all routes above were applied without it."""
    case.router.apply(route(case, 500), 1)
    case.router.apply(replace(route(case), canary=None), 2)
    with pytest.raises(RouterUnavailable, match=r"Prometheus at .* does not answer"):
        case.router.counts("docs", None)
