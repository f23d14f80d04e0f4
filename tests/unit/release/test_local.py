"""What is written for Envoy and supervisord: routes read back as they were meant, files that hold what they must."""

from __future__ import annotations

import configparser
import itertools
from pathlib import Path

import pytest

from pipelines.release.local import clusters, listeners, resources
from pipelines.release.local.fleet import Record, program
from pipelines.release.ports import FULL_BP, Address, FleetError, Route, Split, Target

STABLE = Target("docs-one", Address("127.0.0.1", 8200))
CANARY = Target("docs-two", Address("127.0.0.1", 8201))
ADDRESSES = {target.copy: target.address for target in (STABLE, CANARY)}

ROUTES = [
    Route("docs", 8100, stable, canary, split if canary else Split(), is_idempotent, header, silence)
    for stable, canary, split, is_idempotent, (header, silence) in itertools.product(
        (STABLE, None),
        (CANARY, None),
        (Split(0), Split(500), Split(FULL_BP), Split(0, FULL_BP), Split(500, 1)),
        (True, False),
        (("", 120), ("X-User", 7)),
    )
    if stable or split in (Split(0), Split(FULL_BP))  # a part of the users needs a stable version for the others
]


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_route_is_read_back_as_it_was_written(route: Route) -> None:
    assert resources.parse_route(resources.route_configuration(route), ADDRESSES, 8100) == route


@pytest.mark.parametrize("canary_bp", [0, 1, 5000, FULL_BP])
def test_the_weights_sum_to_all_users(canary_bp: int) -> None:
    written = resources.route_configuration(Route("docs", 8100, STABLE, CANARY, Split(canary_bp)))
    users = next(entry for entry in written["virtual_hosts"][0]["routes"] if entry["name"] == "users")
    shares = users["route"]["weighted_clusters"]["clusters"]
    assert {share["name"]: share["weight"] for share in shares} == {
        "docs-one": FULL_BP - canary_bp,
        "docs-two/users": canary_bp,
    }


def test_the_canarys_leg_falls_back_to_stable_and_never_panics() -> None:
    leg, _ = clusters.of_canary(CANARY, STABLE)
    assert leg["cluster_type"]["typed_config"]["clusters"] == ["docs-two", "docs-one"]
    assert leg["common_lb_config"] == {"healthy_panic_threshold": {"value": 0.0}}


def test_sessions_are_kept_by_their_header_and_hashed_with_it() -> None:
    route = Route("docs", 8100, STABLE, CANARY, Split(500), session_header="X-User")
    users = resources.route_configuration(route)["virtual_hosts"][0]["routes"][-1]
    assert users["route"]["weighted_clusters"]["use_hash_policy"] is True
    assert users["route"]["hash_policy"] == [{"header": {"header_name": "X-User"}}]
    assert users["metadata"]["filter_metadata"][listeners.LUA] == {"session_header": "X-User"}


def test_an_arm_whose_cluster_envoy_does_not_hold_counts_as_absent() -> None:
    written = resources.route_configuration(Route("docs", 8100, STABLE, CANARY))
    assert resources.parse_route(written, {"docs-one": STABLE.address}, 8100).canary is None


def test_a_service_that_is_not_idempotent_is_never_asked_twice() -> None:
    def policy(is_idempotent: bool) -> bool:
        route = Route("docs", 8100, STABLE, None, is_idempotent=is_idempotent)
        return "retry_on" in resources.route_configuration(route)["virtual_hosts"][0]["retry_policy"]

    assert policy(True)
    assert not policy(False)


def test_copies_are_checked_by_http_and_often() -> None:
    for cluster in clusters.of_copy(STABLE):
        (check,) = cluster["health_checks"]
        assert check["http_health_check"] == {"path": "/readyz", "host": STABLE.copy}
        assert check["no_traffic_interval"] == "0.5s"
        assert clusters.address_of(cluster) == STABLE.address


def test_a_copys_file_stops_and_kills_the_whole_group_and_restarts_it() -> None:
    text = program(Record("docs-one", "docs", 8200), ["serve", "a b"], {"HOME": "50%"}, Path("/home"), Path("/logs"))
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read_string(text)
    section = parsed["program:docs-one"]

    assert {section[name] for name in ("autostart", "autorestart", "stopasgroup", "killasgroup")} == {"true"}
    assert section["command"] == "serve 'a b'"
    assert section["environment"] == 'HOME="50%%"'
    assert section["stdout_logfile"] == "/logs/docs-one.log"


@pytest.mark.parametrize("value", ['with "quotes"', "a ; comment", "two\nlines"])
def test_what_supervisord_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(FleetError, match="supervisord cannot hold"):
        program(Record("docs-one", "docs", 8200), ["serve"], {"HOME": value}, Path("/home"), Path("/logs"))
