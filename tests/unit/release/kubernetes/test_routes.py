"""HTTPRoutes: what is written, and that it is read back as it was asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipelines.formats import headers
from pipelines.formats.headers import Traffic, traffic_of
from pipelines.release.kubernetes import routes
from pipelines.release.kubernetes.gateway import GatewayName, implementations
from pipelines.release.ports import FULL_BP, Address, Observed, Route, Split, Target

GATEWAY = GatewayName("gateways", "shared")
ONE, TWO = (Target(f"docs-{word}", Address(f"docs-{word}.slipway.svc", 3000)) for word in ("one", "two"))


def route(stable: Target | None = ONE, canary: Target | None = TWO, bp: int = 0, mirror: int = 0, **more: Any) -> Route:
    return Route("docs", 8100, stable, canary, Split(bp, mirror), **more)


def body(wanted: Route, generation: int = 3) -> dict[str, Any]:
    return routes.body(Observed(wanted, generation), "docs.example.org", GATEWAY, 1234)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(route(None, None), id="nothing-is-released"),
        pytest.param(route(None, TWO), id="a-first-candidate"),
        pytest.param(route(None, TWO, FULL_BP), id="a-first-release"),
        pytest.param(route(ONE, None), id="in-production"),
        pytest.param(route(mirror=FULL_BP), id="all-is-mirrored"),
        pytest.param(route(mirror=2500), id="a-part-is-mirrored"),
        pytest.param(route(bp=500, is_idempotent=True, session_header="X-User", silence_seconds=9), id="a-canary"),
        pytest.param(route(bp=FULL_BP), id="promoting"),
    ],
)
def test_a_route_is_read_back_as_it_was_asked_for(wanted: Route) -> None:
    assert routes.parse(body(wanted), "slipway") == Observed(wanted, 3)


def test_weights_that_somebody_changed_by_hand_are_seen() -> None:
    found = body(route(bp=500))
    found["spec"]["rules"][routes.USERS]["backendRefs"][1]["weight"] = 9000
    assert routes.parse(found, "slipway").route.split.canary_bp == 9000


@pytest.mark.parametrize("spoil", ["annotations", "rules"])
def test_a_route_of_somebody_else_is_not_taken_for_ours(spoil: str) -> None:
    found = copy.deepcopy(body(route()))
    if spoil == "annotations":
        found["metadata"]["annotations"] = {}
    else:
        found["spec"]["rules"] = []
    with pytest.raises((KeyError, IndexError, ValueError)):
        routes.parse(found, "slipway")


def test_the_rules_stand_where_the_counts_look_for_them() -> None:
    found = implementations()["gateway.envoyproxy.io/gatewayclass-controller"].counts
    assert found is not None
    rule = "httproute/slipway/docs/rule"
    assert found.of("slipway", "docs").parts == {
        "stable/pinned": f"{rule}/{routes.PIN_STABLE}/backend/0",
        "canary/pinned": f"{rule}/{routes.PIN_CANARY}/backend/0",
        "stable/user": f"{rule}/{routes.USERS}/backend/0",
        "canary/user": f"{rule}/{routes.USERS}/backend/1",
        "canary/shadow": f"{rule}/{routes.USERS}-mirror-0",
    }
    spec = body(route(bp=500, mirror=FULL_BP))["spec"]
    users = spec["rules"][routes.USERS]
    assert [backend["name"] for backend in users["backendRefs"]] == [ONE.copy, TWO.copy]
    assert [backend["weight"] for backend in users["backendRefs"]] == [9500, 500]
    assert users["filters"][0]["type"] == "RequestMirror"
    pins = [spec["rules"][index]["backendRefs"] for index in (routes.PIN_STABLE, routes.PIN_CANARY)]
    assert [[backend["name"] for backend in backends] for backends in pins] == [[ONE.copy], [TWO.copy]]


def test_every_backend_has_a_filter_or_a_whole_rule_would_be_one_cluster() -> None:
    for rule in body(route(bp=500))["spec"]["rules"]:
        assert all(backend["filters"] for backend in rule["backendRefs"])
        assert rule["timeouts"] == {"request": "0s"}


def test_what_users_say_about_themselves_does_not_count() -> None:
    users = body(route(bp=500))["spec"]["rules"][routes.USERS]
    for backend, target in zip(users["backendRefs"], (ONE, TWO), strict=True):
        (entry,) = backend["filters"]
        modifier = entry["requestHeaderModifier"]
        assert modifier["set"] == [{"name": headers.COPY, "value": target.copy}]
        assert modifier["remove"] == [headers.TRAFFIC, headers.PIN]


def test_pinned_requests_reach_their_arm_for_every_path() -> None:
    for index, arm in ((routes.PIN_STABLE, "stable"), (routes.PIN_CANARY, "canary")):
        rule = body(route())["spec"]["rules"][index]
        assert {match["path"]["value"] for match in rule["matches"]} == {"/", *routes.ABOUT}
        assert all(match["headers"][0]["value"] == arm for match in rule["matches"])
        set_by_us = {
            entry["name"]: entry["value"]
            for entry in rule["backendRefs"][0]["filters"][0]["requestHeaderModifier"]["set"]
        }
        assert set_by_us[headers.TRAFFIC] == Traffic.PINNED


@pytest.mark.parametrize(
    ("label", "host", "chosen", "own", "kind"),
    [
        pytest.param(None, "docs", "docs-one", "docs-one", Traffic.USER, id="the-copy-that-was-chosen"),
        pytest.param(None, "docs", "docs-one", "docs-two", Traffic.SHADOW, id="another-copy-got-it-mirrored"),
        pytest.param("pinned", "docs", "docs-two", "docs-two", Traffic.PINNED, id="pinned"),
        pytest.param(None, "docs-shadow:80", None, None, Traffic.SHADOW, id="marked-by-its-host"),
        pytest.param(None, "docs", "docs-one", None, Traffic.USER, id="a-copy-that-knows-no-name"),
        pytest.param(None, "docs", None, "docs-two", Traffic.USER, id="not-through-the-gateway"),
    ],
)
def test_a_copy_tells_a_mirrored_request_by_who_was_chosen(
    label: str | None, host: str, chosen: str | None, own: str | None, kind: Traffic
) -> None:
    assert traffic_of(label, host, chosen, own) is kind
