"""The Envoy router with a real Envoy: what is asked for is in force, what is refused leaves no trace."""

from __future__ import annotations

import contextlib
import json
import math
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pipelines.errors import RouterRejected
from pipelines.release.local.envoy import EnvoyFiles
from pipelines.release.local.router import is_free
from pipelines.release.ports import FULL_BP, Observed, Route, RouterUnavailable
from pipelines.settings import Settings
from tests.ports import own_port, own_ranges
from tests.steps.copy_server import Server
from tests.steps.envoy_case import Endpoint, running_endpoint
from tests.steps.live import Load, wait_for


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    settings = Settings(home=tmp_path_factory.mktemp("envoy"), **own_ranges())
    with running_endpoint(settings) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint) -> Endpoint:
    return running.reset()


def test_what_was_applied_is_what_is_observed(endpoint: Endpoint) -> None:
    endpoint.apply(500, 2500, session_header="X-User", silence_seconds=7, is_idempotent=False)
    endpoint.apply(0, FULL_BP)

    assert endpoint.ask().headers["X-Slipway-Version"] == "one"


def test_the_pin_header_reaches_the_canary_at_weight_0_and_marks_the_request(endpoint: Endpoint) -> None:
    endpoint.apply()

    assert endpoint.ask(X_Slipway_Pin="canary").headers["X-Slipway-Version"] == "two"
    assert endpoint.two.seen[-1]["x-slipway-traffic"] == "pinned"
    assert endpoint.ask(X_Slipway_Traffic="pinned").headers["X-Slipway-Version"] == "one"
    assert "x-slipway-traffic" not in endpoint.one.seen[-1], "a user cannot leave the counts by a header"


def test_a_service_without_a_version_says_so(endpoint: Endpoint) -> None:
    endpoint.stable, endpoint.canary, candidate = None, None, endpoint.canary
    endpoint.apply()
    assert (endpoint.ask().status_code, endpoint.ask().text) == (503, "docs: no version is released yet\n")

    endpoint.canary = candidate
    endpoint.apply()
    assert endpoint.ask().status_code == 503
    assert endpoint.ask(X_Slipway_Pin="canary").status_code == 200
    assert endpoint.ask(X_Slipway_Pin="stable").status_code == 404
    endpoint.apply(FULL_BP)
    assert endpoint.ask().headers["X-Slipway-Version"] == "two", "a first release needs no stable version"


def test_fifty_weight_changes_under_load_cost_no_request_and_no_stream(endpoint: Endpoint) -> None:
    endpoint.apply()
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(endpoint.stream(X_Slipway_Pin="stable")),
            stack.enter_context(endpoint.stream(X_Slipway_Pin="canary")),
            stack.enter_context(endpoint.stream()),
        ]
        load = stack.enter_context(Load(endpoint.url))
        endpoint.apply(FULL_BP)
        streams.append(stack.enter_context(endpoint.stream()))
        for number in range(49):
            endpoint.apply((number % 5) * FULL_BP // 4)
        endpoint.stable, endpoint.canary = endpoint.canary, None
        endpoint.apply()  # the candidate becomes stable; the old copy leaves the route
        endpoint.one.next_chunk.set()
        endpoint.two.next_chunk.set()
        for stream in streams:
            stream.wait()

    assert load.failures == []
    assert load.by("one") > 0
    assert load.by("two") > 0
    assert [(stream.version, stream.error, len(stream.text)) for stream in streams] == [
        (version, None, 200 * len("token")) for version in ("one", "two", "one", "two")
    ]


def test_an_older_generation_is_refused_and_the_same_one_changes_nothing(endpoint: Endpoint) -> None:
    lowered, latest = endpoint.apply(), endpoint.generation
    endpoint.router.apply(lowered, latest)

    with pytest.raises(RouterRejected, match=f"generation {latest - 1} of docs is older than {latest}"):
        endpoint.router.apply(endpoint.route(FULL_BP), latest - 1)
    assert endpoint.router.observe(endpoint.service) == Observed(lowered, latest)


def test_a_taken_port_is_refused_with_envoys_reason_and_leaves_no_trace(endpoint: Endpoint) -> None:
    with socket.socket() as taken:
        port = own_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(RouterRejected, match=f"cannot bind '127.0.0.1:{port}': Address already in use"):
            endpoint.router.apply(Route("other", port, endpoint.stable, None), 1)
        assert endpoint.router.observe("other") is None
    listeners = EnvoyFiles.of(endpoint.envoy.settings).listeners
    assert "other" not in {entry["name"] for entry in json.loads(listeners.read_text())["resources"]}
    endpoint.envoy.kill()
    endpoint.envoy.start()
    wait_for(lambda: endpoint.router.observe(endpoint.service), "the listener that was accepted is back")
    assert is_free(port), "a refused listener does not come back with Envoy's next start"


def test_the_weights_survive_envoys_death(endpoint: Endpoint) -> None:
    wanted = endpoint.apply(FULL_BP)
    endpoint.envoy.kill()
    endpoint.envoy.start()

    wait_for(
        lambda: endpoint.router.observe(endpoint.service) == Observed(wanted, endpoint.generation),
        "the listener is back",
    )
    assert endpoint.ask().headers["X-Slipway-Version"] == "two"


def test_a_canary_that_was_taken_back_gets_no_request_after_envoys_death(endpoint: Endpoint) -> None:
    endpoint.apply(5000)
    lowered = endpoint.apply(0)
    endpoint.envoy.kill()
    endpoint.envoy.start()
    wait_for(
        lambda: endpoint.router.observe(endpoint.service) == Observed(lowered, endpoint.generation),
        "the listener is back",
    )

    assert {endpoint.ask({"seconds": 0}).headers["X-Slipway-Version"] for _ in range(40)} == {"one"}
    assert endpoint.two.seen == []


def test_what_is_asked_while_envoy_is_down_is_in_force_when_it_returns(endpoint: Endpoint) -> None:
    endpoint.apply(FULL_BP)
    endpoint.envoy.kill()
    with pytest.raises(RouterUnavailable, match="does not answer"):
        endpoint.apply()
    endpoint.envoy.start()

    expected = Observed(endpoint.route(), endpoint.generation)
    wait_for(lambda: endpoint.router.observe(endpoint.service) == expected, "the lowered weight is in force")
    assert endpoint.ask().headers["X-Slipway-Version"] == "one"


@pytest.mark.parametrize("pin", [{}, {"X_Slipway_Pin": "canary"}], ids=["users", "pinned"])
def test_drain_counts_the_requests_that_a_copy_still_answers(endpoint: Endpoint, pin: dict[str, str]) -> None:
    endpoint.apply(FULL_BP)
    copy = f"{endpoint.service}-two"
    assert endpoint.router.drain(endpoint.service, copy) == 0

    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(endpoint.stream(**pin)) for _ in range(3)]
        wait_for(lambda: endpoint.router.drain(endpoint.service, copy) == 3, "three requests in flight")
        endpoint.two.next_chunk.set()
        for stream in asked:
            stream.wait()
        assert [stream.error for stream in asked] == [None] * 3
    wait_for(lambda: endpoint.router.drain(endpoint.service, copy) == 0, "no request in flight")


def test_a_connection_that_breaks_is_tried_again_for_an_idempotent_service(endpoint: Endpoint) -> None:
    endpoint.one.fault = "reset once"

    assert endpoint.ask().status_code == 200
    assert len(endpoint.one.seen) == 2


@pytest.mark.parametrize(("is_idempotent", "status"), [(True, 200), (False, 503)], ids=["idempotent", "once-only"])
def test_only_an_idempotent_request_is_sent_again_and_then_to_stable(
    endpoint: Endpoint, is_idempotent: bool, status: int
) -> None:
    endpoint.apply(FULL_BP, is_idempotent=is_idempotent)
    endpoint.two.fault = "503"

    assert endpoint.ask().status_code == status
    assert (len(endpoint.two.seen), len(endpoint.one.seen)) == (1, int(is_idempotent))


def test_a_copy_that_is_silent_for_too_long_loses_the_request(endpoint: Endpoint) -> None:
    endpoint.apply(FULL_BP, silence_seconds=2, is_idempotent=False)

    assert endpoint.ask({"seconds": 30}, timeout=60).status_code == 504
    assert endpoint.ask({"chunks": 25}).text == "token" * 25, "an answer may take longer than its longest silence"


def test_a_session_keeps_its_version_and_the_canary_only_wins_sessions_while_its_weight_rises(
    endpoint: Endpoint,
) -> None:
    names = [f"user-{number}" for number in range(200)]

    def canarys() -> set[str]:
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as clients:
            found = clients.map(lambda name: client.get(f"{endpoint.url}", headers={"X-User": name}), names)
            served = [answer.headers["X-Slipway-Version"] for answer in found]
        return {name for name, version in zip(names, served, strict=True) if version == "two"}

    before: set[str] = set()
    for weight in (500, 2500, 5000, FULL_BP):
        endpoint.apply(weight, session_header="X-User")
        now = canarys()
        assert now == canarys(), "a session stays where it is"
        assert now >= before, "no session goes back"
        expected, share = len(names) * weight / FULL_BP, weight / FULL_BP
        assert abs(len(now) - expected) <= 4 * math.sqrt(expected * (1 - share))
        before = now


def test_a_copy_that_comes_back_on_another_port_is_found_there(endpoint: Endpoint) -> None:
    with Server(0, "moved", "1" * 64) as moved:
        moved.run_in_thread()
        endpoint.stable = endpoint.target("one", moved.port)
        endpoint.apply()

        assert endpoint.ask().headers["X-Slipway-Version"] == "moved"
        moved.shutdown()
