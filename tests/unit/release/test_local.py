"""What is written for Envoy and supervisord: routes read back as they were meant, files that hold what they must."""

from __future__ import annotations

import configparser
import itertools
from pathlib import Path

import pytest

from pipelines.release.local import resources
from pipelines.release.local.fleet import Record, program
from pipelines.release.ports import FULL_BP, Address, FleetError, Route, Split, Target

STABLE = Target("docs-one", Address("127.0.0.1", 8200))
CANARY = Target("docs-two", Address("127.0.0.1", 8201))
ADDRESSES = {target.copy: target.address for target in (STABLE, CANARY)}

ROUTES = [
    Route("docs", 8100, stable, canary, Split(weight if canary else 0), is_idempotent=idempotent)
    for stable, canary, weight, idempotent in itertools.product(
        (STABLE, None), (CANARY, None), (0, 500, FULL_BP), (True, False)
    )
    if stable or weight in (0, FULL_BP)  # a part of the users needs a stable version for the others
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
        "docs-two": canary_bp,
    }


def test_an_arm_whose_cluster_envoy_does_not_hold_counts_as_absent() -> None:
    written = resources.route_configuration(Route("docs", 8100, STABLE, CANARY))
    assert resources.parse_route(written, {"docs-one": STABLE.address}, 8100).canary is None


def test_a_service_that_is_not_idempotent_is_never_asked_twice() -> None:
    def policy(is_idempotent: bool) -> bool:
        route = Route("docs", 8100, STABLE, None, is_idempotent=is_idempotent)
        return "retry_policy" in resources.route_configuration(route)["virtual_hosts"][0]

    assert policy(True)
    assert not policy(False)


def test_copies_are_checked_by_http_and_often() -> None:
    (check,) = resources.cluster(STABLE)["health_checks"]
    assert check["http_health_check"] == {"path": "/readyz"}
    assert check["no_traffic_interval"] == "0.5s"
    assert resources.cluster_address(resources.cluster(STABLE)) == STABLE.address


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
