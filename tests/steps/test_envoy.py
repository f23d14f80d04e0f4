"""The Envoy router with a real Envoy: what is asked for is in force, what is refused leaves no trace."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.errors import RouterRejected
from pipelines.release.local.envoy import EnvoyFiles
from pipelines.release.local.router import EnvoyRouter, is_free
from pipelines.release.ports import FULL_BP, Address, Observed, Route, RouterUnavailable, Split, Target
from pipelines.settings import Settings
from tests.steps.copy_server import Server
from tests.steps.live import LiveEnvoy, Load, wait_for

SERVICE = "docs"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, service_ports="18100-18149", copy_ports="18200-18249")


@pytest.fixture
def envoy(settings: Settings) -> Iterator[LiveEnvoy]:
    running = LiveEnvoy(settings)
    yield running
    running.kill()


@pytest.fixture
def router(settings: Settings, envoy: LiveEnvoy) -> EnvoyRouter:
    return EnvoyRouter(settings)


@pytest.fixture
def one() -> Iterator[Server]:
    server = Server(0, "one", "1" * 64).run_in_thread()
    yield server
    server.stop()


@pytest.fixture
def two() -> Iterator[Server]:
    server = Server(0, "two", "2" * 64).run_in_thread()
    yield server
    server.stop()


def target(server: Server, name: str) -> Target:
    return Target(f"{SERVICE}-{name}", Address("127.0.0.1", server.port))


def route(router: EnvoyRouter, stable: Target | None, canary: Target | None = None, canary_bp: int = 0) -> Route:
    held = router.observe(SERVICE)
    port = held.route.port if held else next(iter(router.free_ports()))
    return Route(SERVICE, port, stable, canary, Split(canary_bp), is_idempotent=True)


def ask(found: Route, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{found.port}/v1/completions"
    return httpx.post(url, json={"prompt": "hello"}, headers=headers, timeout=20, trust_env=False)


def test_what_was_applied_is_what_is_observed(router: EnvoyRouter, one: Server, two: Server) -> None:
    wanted = route(router, target(one, "one"), target(two, "two"))
    router.apply(wanted, 7)

    assert router.observe(SERVICE) == Observed(wanted, 7)
    assert ask(wanted).headers["X-Slipway-Version"] == "one"


def test_the_pin_header_reaches_the_canary_at_weight_0_and_marks_the_request(
    router: EnvoyRouter, one: Server, two: Server
) -> None:
    wanted = route(router, target(one, "one"), target(two, "two"))
    router.apply(wanted, 1)

    assert ask(wanted, **{"X-Slipway-Pin": "canary"}).headers["X-Slipway-Version"] == "two"
    assert two.seen[-1]["x-slipway-traffic"] == "pinned"
    assert ask(wanted, **{"X-Slipway-Traffic": "pinned"}).headers["X-Slipway-Version"] == "one"
    assert "x-slipway-traffic" not in one.seen[-1], "a user cannot leave the counts by a header"


def test_a_service_without_a_version_says_so(router: EnvoyRouter, one: Server) -> None:
    router.apply(route(router, None), 1)
    first = route(router, None)
    assert (ask(first).status_code, ask(first).text) == (503, "docs: no version is released yet\n")

    staged = route(router, None, target(one, "one"))
    router.apply(staged, 2)
    assert ask(staged).status_code == 503
    assert ask(staged, **{"X-Slipway-Pin": "canary"}).status_code == 200
    assert ask(staged, **{"X-Slipway-Pin": "stable"}).status_code == 404


def test_fifty_weight_changes_under_load_cost_no_request(router: EnvoyRouter, one: Server, two: Server) -> None:
    arms = target(one, "one"), target(two, "two")
    router.apply(route(router, *arms), 1)
    endpoint = f"http://127.0.0.1:{route(router, *arms).port}/v1/completions"
    with Load(endpoint) as load:
        for number in range(50):
            router.apply(route(router, *arms, canary_bp=(number % 5) * FULL_BP // 4), number + 2)

    assert load.failures == []
    assert load.by("one") > 0
    assert load.by("two") > 0


def test_an_older_generation_is_refused_and_the_same_one_changes_nothing(
    router: EnvoyRouter, one: Server, two: Server
) -> None:
    lowered = route(router, target(one, "one"), target(two, "two"))
    router.apply(lowered, 9)
    router.apply(lowered, 9)

    with pytest.raises(RouterRejected, match="generation 8 of docs is older than 9"):
        router.apply(route(router, target(one, "one"), target(two, "two"), FULL_BP), 8)
    assert router.observe(SERVICE) == Observed(lowered, 9)


def test_a_taken_port_is_refused_with_envoys_reason_and_leaves_no_trace(
    router: EnvoyRouter, settings: Settings, envoy: LiveEnvoy, one: Server
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RouterRejected, match=f"cannot bind '127.0.0.1:{port}': Address already in use"):
            router.apply(Route(SERVICE, port, target(one, "one"), None), 1)
        assert router.observe(SERVICE) is None
    files = EnvoyFiles.of(settings)
    assert json.loads(files.listeners.read_text())["resources"] == []
    envoy.kill()
    envoy.start()
    assert is_free(port), "a refused listener does not come back with Envoy's next start"


def test_the_weights_survive_envoys_death(router: EnvoyRouter, envoy: LiveEnvoy, one: Server, two: Server) -> None:
    wanted = route(router, target(one, "one"), target(two, "two"), FULL_BP)
    router.apply(wanted, 3)
    envoy.kill()
    envoy.start()

    wait_for(lambda: router.observe(SERVICE) is not None, "the listener is back")
    assert router.observe(SERVICE) == Observed(wanted, 3)
    assert ask(wanted).headers["X-Slipway-Version"] == "two"


def test_what_is_asked_while_envoy_is_down_is_in_force_when_it_returns(
    router: EnvoyRouter, envoy: LiveEnvoy, one: Server, two: Server
) -> None:
    promoted = route(router, target(one, "one"), target(two, "two"), FULL_BP)
    router.apply(promoted, 3)
    lowered = Route(SERVICE, promoted.port, promoted.stable, promoted.canary, Split(0), is_idempotent=True)
    envoy.kill()
    with pytest.raises(RouterUnavailable, match="does not answer"):
        router.apply(lowered, 4)
    envoy.start()

    wait_for(lambda: router.observe(SERVICE) == Observed(lowered, 4), "the lowered weight is in force")
    assert ask(lowered).headers["X-Slipway-Version"] == "one"


def test_drain_counts_the_requests_that_a_copy_still_answers(router: EnvoyRouter, one: Server) -> None:
    wanted = route(router, target(one, "one"))
    router.apply(wanted, 1)
    assert router.drain(SERVICE, "docs-one") == 0

    with Load(f"http://127.0.0.1:{wanted.port}/v1/completions", clients=3, body={"prompt": "x", "seconds": 0.3}):
        wait_for(lambda: router.drain(SERVICE, "docs-one") == 3, "three requests in flight")
    wait_for(lambda: router.drain(SERVICE, "docs-one") == 0, "nothing in flight")


def test_a_connection_that_breaks_is_tried_again_for_an_idempotent_service(router: EnvoyRouter, one: Server) -> None:
    wanted = route(router, target(one, "one"))
    router.apply(wanted, 1)
    port = one.port
    with Load(f"http://127.0.0.1:{wanted.port}/v1/completions", clients=2) as load:
        one.stop()
        replacement = Server(port, "one", "1" * 64).run_in_thread()
        answered = load.by("one")
        wait_for(lambda: load.by("one") > answered + 20, "answers after the copy came back")
    replacement.stop()
    assert all("no healthy" not in failure for failure in load.failures)
