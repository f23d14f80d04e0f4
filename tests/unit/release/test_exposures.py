"""From access log lines to what they say about a version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.formats.headers import Traffic
from pipelines.release.local.exposures import Exposure, parse_line, tally
from pipelines.release.ports import LATENCY_BOUNDS_MS, Arm

LEG, STABLE = {"cluster": "docs-two/users", "copy": "docs-two"}, {"cluster": "docs-one", "copy": "docs-one"}


def line(**fields: Any) -> bytes:
    """Return a line about a user's request that the canary answered well, except for some fields."""
    good = {
        "start": "1000.500000",
        "duration_ms": 250,
        "headers_us": 20_500,
        "route": "users",
        "attempts": 1,
        "status": 200,
        "flags": "-",
        "session": None,
        **LEG,
    }
    return json.dumps({**good, **fields}).encode()


def parsed(**fields: Any) -> Exposure:
    found = parse_line(line(**fields))
    assert found is not None
    return found


def test_a_good_request_is_an_exposure_with_its_time_to_the_headers() -> None:
    assert parsed(session="5e55") == Exposure(
        arm=Arm.CANARY,
        traffic=Traffic.USER,
        is_completed=True,
        is_bad=False,
        wait_ms=20.5,
        start=1000.5,
        end=1000.75,
        session="5e55",
    )


@pytest.mark.parametrize(
    ("fields", "arm", "traffic"),
    [
        pytest.param(LEG, Arm.CANARY, Traffic.USER, id="users-of-the-canary"),
        pytest.param(STABLE, Arm.STABLE, Traffic.USER, id="users-of-stable"),
        pytest.param(
            {"route": "pin-canary", "cluster": "docs-two/pinned"}, Arm.CANARY, Traffic.PINNED, id="pin-canary"
        ),
        pytest.param(
            {"route": "pin-stable", "cluster": "docs-two/pinned"}, Arm.STABLE, Traffic.PINNED, id="pin-stable"
        ),
        pytest.param({"route": "mirror", "cluster": "docs-two"}, Arm.CANARY, Traffic.SHADOW, id="mirrored"),
    ],
)
def test_arm_and_traffic_come_from_the_route(fields: dict[str, str], arm: Arm, traffic: Traffic) -> None:
    found = parsed(**fields)
    assert (found.arm, found.traffic, found.is_bad) == (arm, traffic, False)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"attempts": 2, "copy": "docs-one"}, id="retry-hides-the-failure"),
        pytest.param({"copy": "docs-one"}, id="passed-over-as-not-healthy"),
        pytest.param({"status": 500}, id="error"),
        pytest.param({"status": 429}, id="overload"),
        pytest.param({"status": 503, "flags": "UF", "headers_us": None}, id="no-connection"),
        pytest.param({"status": 503, "flags": "UH", "headers_us": None, "copy": None}, id="nobody-healthy"),
        pytest.param({"status": 504, "flags": "UT", "headers_us": None}, id="silence"),
        pytest.param({"flags": "UC"}, id="broken-after-the-headers"),
        pytest.param({"flags": "UPE"}, id="cut-off-after-the-headers"),
        pytest.param({"attempts": 2, "flags": "DC", "status": 0, "headers_us": None}, id="failed-then-the-user-left"),
    ],
)
def test_a_failed_first_attempt_is_bad(fields: dict[str, Any]) -> None:
    found = parsed(**fields)
    assert (found.is_completed, found.is_bad) == (True, True)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"status": 400}, id="bad-request"),
        pytest.param({"status": 404}, id="not-found"),
        pytest.param({"flags": "DC"}, id="the-user-left-in-the-middle"),
        pytest.param({"flags": "DC,UC"}, id="the-user-left-and-so-the-copy-was-cut-off"),
    ],
)
def test_what_the_user_did_is_no_failure(fields: dict[str, Any]) -> None:
    found = parsed(**fields)
    assert (found.is_completed, found.is_bad) == (True, False)


def test_a_user_who_leaves_before_the_headers_has_waited_and_nothing_more() -> None:
    found = parsed(flags="DC", status=0, headers_us=None)
    assert (found.is_completed, found.is_bad, found.wait_ms) == (False, False, 250.0)


def test_a_refusal_of_the_router_itself_says_nothing_about_a_version() -> None:
    assert parse_line(line(cluster=None, copy=None, status=503)) is None
    assert parse_line(line(route=None, cluster=None, copy=None, status=404)) is None


@pytest.mark.parametrize(
    "text",
    [b"", b"{", line()[:-20], line()[:50] + line(), b"[]", b"null", b'{"route": "users"}', line(start="soon")],
    ids=["empty", "begun", "cut", "glued", "list", "null", "fields-missing", "no-time"],
)
def test_a_line_that_is_not_whole_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a whole line"):
        parse_line(text)


def test_a_tally_sums_exposures_bad_ones_and_latencies() -> None:
    lines = [
        line(),
        line(status=500),
        line(attempts=2),
        line(flags="DC", status=0, headers_us=None),
        line(headers_us=1e9),
        line(**STABLE),
    ]
    sums = tally(found for found in map(parse_line, lines) if found)
    canary = sums[Arm.CANARY, Traffic.USER]
    buckets = {index: count for index, count in enumerate(canary.latency) if count}

    assert set(sums) == {(Arm.CANARY, Traffic.USER), (Arm.STABLE, Traffic.USER)}
    assert (canary.exposures, canary.bad) == (4, 2)
    at_20_ms, at_250_ms, above = sorted(buckets)
    assert LATENCY_BOUNDS_MS[at_20_ms - 1] < 20.5 <= LATENCY_BOUNDS_MS[at_20_ms]
    assert LATENCY_BOUNDS_MS[at_250_ms - 1] < 250 <= LATENCY_BOUNDS_MS[at_250_ms]
    assert above == len(LATENCY_BOUNDS_MS)
    assert [buckets[index] for index in (at_20_ms, at_250_ms, above)] == [2, 1, 1]
