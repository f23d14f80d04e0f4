"""What the router counts with a real Envoy, against what clients and copies saw themselves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pipelines.formats.headers import Traffic
from pipelines.release.local.access_log import AccessLog
from pipelines.release.local.envoy import EnvoyFiles
from pipelines.release.ports import FULL_BP, Arm, Capability, RouterUnavailable, Sessions, Tally
from pipelines.settings import Settings
from tests.ports import own_ranges
from tests.steps.envoy_case import Endpoint, running_endpoint, total, users
from tests.steps.live import Load, wait_for


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    settings = Settings(home=tmp_path_factory.mktemp("envoy"), **own_ranges())
    with running_endpoint(settings) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint) -> Endpoint:
    return running.reset()


def answered(load: Load) -> int:
    """Return how many requests the clients have sent and got an answer to."""
    return sum(load.answers.values())


def test_every_request_is_counted_once_and_a_retry_hides_no_failure_of_the_canary(endpoint: Endpoint) -> None:
    since = endpoint.cursor()
    endpoint.apply(5000)
    with Load(endpoint.url, body={"prompt": "x", "seconds": 0}) as load:
        wait_for(lambda: load.by("one") + load.by("two") > 100, "good answers")
        endpoint.two.fault = "503"
        wait_for(lambda: len(endpoint.two.refused) > 30, "failures of the canary")
    counts = endpoint.counts(since, answered(load))
    canary, stable = users(counts, Arm.CANARY), users(counts, Arm.STABLE)

    assert load.failures == [], "no user saw a failure"
    assert total(counts) == answered(load)
    assert (canary.exposures, canary.bad) == (len(endpoint.two.seen), len(endpoint.two.refused))
    assert (stable.exposures, stable.bad) == (len(endpoint.one.seen) - canary.bad, 0)
    assert sum(canary.latency) == canary.exposures - canary.bad
    assert sum(stable.latency) == stable.exposures


def test_a_look_that_was_lost_can_be_made_again_and_a_cursor_goes_on_where_it_was_made(endpoint: Endpoint) -> None:
    since = endpoint.cursor()
    endpoint.ask()
    first = endpoint.counts(since, 1)
    endpoint.ask()

    assert total(endpoint.counts(first.cursor, 1)) == 1
    assert total(endpoint.counts(since, 2)) == 2
    assert endpoint.router.counts(endpoint.service, None).tallies == {}


@pytest.mark.parametrize(
    ("fault", "body", "expected"),
    [
        pytest.param("", {}, Tally(1, 0), id="good"),
        pytest.param("500", {}, Tally(1, 1), id="error-that-is-not-retried"),
        pytest.param("429", {}, Tally(1, 1), id="overload"),
        pytest.param("404", {}, Tally(1, 0), id="the-users-own-mistake"),
        pytest.param("reset", {}, Tally(1, 1), id="no-headers"),
        pytest.param("", {"chunks": 3}, Tally(1, 0), id="stream"),
        pytest.param("break", {"chunks": 3}, Tally(1, 1), id="broken-stream"),
        pytest.param("silent", {}, Tally(1, 1), id="silence"),
    ],
)
def test_a_request_is_bad_when_its_first_attempt_failed(
    endpoint: Endpoint, fault: str, body: dict[str, object], expected: Tally
) -> None:
    endpoint.apply(FULL_BP, silence_seconds=1)
    since, endpoint.two.fault = endpoint.cursor(), fault
    try:
        endpoint.ask(body)
    except httpx.RemoteProtocolError:
        assert fault == "break"
    found = users(endpoint.counts(since, 1), Arm.CANARY)

    assert (found.exposures, found.bad) == (expected.exposures, expected.bad)


def test_a_user_who_leaves_is_no_failure_and_its_wait_is_a_latency(endpoint: Endpoint) -> None:
    since = endpoint.cursor()
    with pytest.raises(httpx.ReadTimeout):
        endpoint.ask({"seconds": 30}, timeout=0.3)
    with endpoint.stream():
        pass
    found = Tally()

    def are_there() -> bool:
        nonlocal found
        found = users(endpoint.router.counts(endpoint.service, since), Arm.STABLE)
        return found.exposures > 0 and sum(found.latency) > 1

    wait_for(are_there, "both in the log")
    assert (found.exposures, found.bad, sum(found.latency)) == (1, 0, 2), "the stream had begun; the other had not"


def test_a_canary_that_is_not_ready_fails_its_share_and_serves_as_soon_as_it_is(endpoint: Endpoint) -> None:
    endpoint.canary = None
    endpoint.apply()
    endpoint.two.is_ready, endpoint.canary = False, endpoint.target("two", endpoint.two.port)
    endpoint.apply()
    since = endpoint.cursor()
    endpoint.apply(5000)
    with Load(endpoint.url) as load:
        wait_for(lambda: load.by("one") > 50, "answers of stable")
        before = endpoint.counts(since, 50)
        assert load.by("two") == 0
        endpoint.two.is_ready = True
        wait_for(lambda: load.by("two") > 0, "requests on the canary")
    found = users(before, Arm.CANARY)

    assert load.failures == []
    assert found.bad == found.exposures > 0, "what stable did in its place is no merit of the canary"


def test_mirrored_requests_reach_the_canary_and_are_counted_apart(endpoint: Endpoint) -> None:
    endpoint.apply(0, FULL_BP)
    since = endpoint.cursor()
    for fault in ("", "", "503"):
        endpoint.two.fault = fault
        assert endpoint.ask({"prompt": "x" * 108_000}).headers["X-Slipway-Version"] == "one"
        wait_for(lambda: len(endpoint.two.seen) == len(endpoint.one.seen), "the copy of the request")
    counts = endpoint.counts(since, 6)
    shadow = counts.tallies[Arm.CANARY, Traffic.SHADOW]

    assert set(counts.tallies) == {(Arm.STABLE, Traffic.USER), (Arm.CANARY, Traffic.SHADOW)}
    assert (shadow.exposures, shadow.bad, sum(shadow.latency)) == (3, 1, 3)
    assert (users(counts, Arm.STABLE).exposures, users(counts, Arm.STABLE).bad) == (3, 0)
    assert all(seen["host"].partition(":")[0].endswith("-shadow") for seen in endpoint.two.seen)


def test_a_share_of_the_requests_is_mirrored(endpoint: Endpoint) -> None:
    endpoint.apply(0, 5000)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: endpoint.ask({"seconds": 0}), range(100)))
    assert 20 < len(endpoint.two.seen) < 80


def test_pinned_requests_and_questions_about_a_copy_are_no_users(endpoint: Endpoint) -> None:
    since = endpoint.cursor()
    endpoint.ask(X_Slipway_Pin="stable")
    endpoint.ask(X_Slipway_Pin="canary")
    root = endpoint.url.removesuffix("/v1/completions")
    for path in ("/provenance", "/provenance?why=release", "/readyz", "/metrics"):
        assert httpx.get(root + path, timeout=60).is_success
    endpoint.ask()

    found = endpoint.counts(since, 3).tallies
    assert {key: tally.exposures for key, tally in found.items()} == {
        (Arm.STABLE, Traffic.PINNED): 1,
        (Arm.CANARY, Traffic.PINNED): 1,
        (Arm.STABLE, Traffic.USER): 1,
    }


def test_sessions_are_counted_once_when_they_close(endpoint: Endpoint) -> None:
    assert Capability.SESSIONS in endpoint.router.capabilities
    endpoint.apply(5000, session_header="X-User")
    endpoint.ask(X_User="earlier")
    since = endpoint.cursor()
    sessions = Sessions(after=since, window_seconds=3)
    endpoint.ask(X_User="earlier")
    for user in range(10):
        answer = endpoint.ask(X_User=f"user-{user}@example.org")
        endpoint.two.fault = "503" if answer.headers["X-Slipway-Version"] == "two" else ""
        endpoint.ask(X_User=f"user-{user}@example.org")
        endpoint.two.fault = ""
    counts = endpoint.counts(since, 10, sessions)
    canary, stable = users(counts, Arm.CANARY), users(counts, Arm.STABLE)

    assert canary.exposures + stable.exposures == 10
    assert (canary.bad, stable.bad) == (canary.exposures, 0)
    assert sum(canary.latency) == canary.exposures
    assert total(endpoint.router.counts(endpoint.service, counts.cursor, sessions)) == 0, "a session counts once"
    assert total(endpoint.router.counts(endpoint.service, since, sessions)) == 10, "unless the look was lost"
    assert "example.org" not in endpoint.log_text()


def test_no_request_is_lost_over_full_logs(endpoint: Endpoint) -> None:
    files = EnvoyFiles.of(endpoint.envoy.settings)
    log = AccessLog(files.access_log(endpoint.service), endpoint.envoy.admin.reopen_logs, max_bytes=1)
    since = endpoint.cursor()
    counted, cursor = 0, since
    with Load(endpoint.url, body={"prompt": "x", "seconds": 0}) as load:
        for _ in range(2):
            before = answered(load)
            wait_for(lambda before=before: answered(load) > before + 20, "more answers")
            found = endpoint.router.counts(endpoint.service, cursor)
            counted, cursor = counted + total(found), found.cursor
            log.rotate()
    counted += total(endpoint.counts(cursor, answered(load) - counted))

    assert load.failures == []
    assert counted == total(endpoint.counts(since, answered(load))) == answered(load)
    assert files.access.stat().st_mode & 0o077 == 0, "for the owner only"


def test_a_log_that_was_renamed_too_often_or_removed_is_a_gap(endpoint: Endpoint) -> None:
    path = EnvoyFiles.of(endpoint.envoy.settings).access_log(endpoint.service)
    log = AccessLog(path, endpoint.envoy.admin.reopen_logs, max_bytes=1)
    since = endpoint.cursor()
    for _ in range(3):
        endpoint.ask()
        wait_for(lambda: path.exists() and path.stat().st_size, "a line in the current file")
        log.rotate()
    assert total(endpoint.counts(endpoint.cursor(), 0)) == 0, "an idle service has no current file"
    assert "renamed too often" in endpoint.router.counts(endpoint.service, since).gap

    since = endpoint.cursor()
    endpoint.ask()
    since = endpoint.counts(since, 1).cursor
    path.unlink()
    removed = endpoint.router.counts(endpoint.service, since)
    assert "removed" in removed.gap
    endpoint.ask()
    assert total(endpoint.counts(removed.cursor, 1)) == 1


def test_envoys_death_is_a_gap_and_counting_goes_on_after_it(endpoint: Endpoint) -> None:
    since = endpoint.cursor()
    endpoint.ask()
    endpoint.envoy.kill()
    with pytest.raises(RouterUnavailable, match="does not answer"):
        endpoint.router.counts(endpoint.service, since)
    endpoint.envoy.start()
    wait_for(lambda: endpoint.router.observe(endpoint.service), "the listener is back")

    found = endpoint.router.counts(endpoint.service, since)
    assert (found.gap, found.tallies) == ("Envoy began anew; what it had not written down is lost", {})
    endpoint.ask()
    assert total(endpoint.counts(found.cursor, 1)) == 1


def test_an_unknown_service_and_a_foreign_cursor_count_nothing(endpoint: Endpoint) -> None:
    with pytest.raises(RouterUnavailable, match="Envoy has no endpoint of nobody"):
        endpoint.router.counts("nobody", None)
    assert "was not made by this router" in endpoint.router.counts(endpoint.service, "yesterday").gap
