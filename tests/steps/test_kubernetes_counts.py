"""Counts from a real Prometheus that scrapes a real Envoy under real traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.release.kubernetes.counts import Change, Cursor
from pipelines.release.kubernetes.prometheus import Prometheus
from pipelines.release.ports import Arm, Counts, RouterUnavailable, Tally
from tests.steps.live import wait_for
from tests.steps.proxy_case import NEVER, Proxies, running, source, tally_of

pytestmark = pytest.mark.needs("prometheus")

PARTS = ("stable/user", "canary/user", "stable/pinned", "canary/pinned")


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Return an Envoy that Prometheus scrapes."""
    with running(tmp_path_factory.mktemp("proxies")) as found:
        yield found


def selectors() -> list[str]:
    found = source()
    broken = (*found.broken.gone, *found.broken.before_headers)
    return [
        *{found.scrapes, found.uptime, *found.exposures, *found.bad, *broken, found.latency.buckets, *found.in_flight}
    ]


@pytest.mark.parametrize("selector", sorted(selectors()))
def test_each_query_finds_series_on_a_real_prometheus(proxies: Proxies, selector: str) -> None:
    proxies.ask("stable/user", "503")
    proxies.ask("stable/user")
    prometheus = Prometheus(proxies.prometheus.url)

    def finds() -> bool:
        now = prometheus.now()
        return any(series.points for series in prometheus.samples(selector, now - 2000, now))

    wait_for(finds, selector)


@pytest.mark.parametrize(
    ("fault", "bad"),
    [
        pytest.param("", 0, id="answered"),
        pytest.param("404", 0, id="a-mistake-of-the-user"),
        pytest.param("500", 1, id="failed"),
        pytest.param("429", 1, id="refused-for-overload"),
        pytest.param("reset", 1, id="no-answer-counts-once"),
    ],
)
def test_every_arm_and_kind_of_traffic_is_counted_apart(proxies: Proxies, fault: str, bad: int) -> None:
    since = proxies.cursor()
    for times, part in enumerate(PARTS, start=1):
        for _ in range(times):
            proxies.ask(part, fault)
    counts = proxies.counts(since, 1 + 2 + 3 + 4)
    found = {part: tally_of(counts, part) for part in PARTS}

    assert [found[part].exposures for part in PARTS] == [1, 2, 3, 4]
    assert [found[part].bad for part in PARTS] == [bad, 2 * bad, 3 * bad, 4 * bad]
    assert len(counts.tallies) == len(PARTS)


def test_a_stream_that_breaks_after_its_headers_is_bad_once(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("canary/user", chunks=2)
    proxies.ask("canary/user", "break", chunks=3)
    found = tally_of(proxies.counts(since, 2), "canary/user")
    assert (found.exposures, found.bad) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "bad"),
    [
        pytest.param("", 0, id="no-retry"),
        pytest.param("reset once", 1, id="good-by-a-retry"),
        pytest.param("503", 1, id="bad-after-all-retries"),
        pytest.param("reset", 1, id="broken-each-time"),
    ],
)
def test_retries_hide_no_failure_and_double_none(proxies: Proxies, fault: str, bad: int) -> None:
    since = proxies.cursor()
    proxies.ask("retried", fault)
    found = tally_of(proxies.counts(since, 1), "stable/user")
    assert (found.exposures, found.bad) == (1, bad)


def test_a_mirrored_request_is_the_canarys_shadow(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.two.fault = "503"
    proxies.ask("mirrored")
    counts = proxies.counts(since, 2)
    proxies.two.fault = ""

    shadow, user = tally_of(counts, "canary/shadow"), tally_of(counts, "stable/user")
    assert ((shadow.exposures, shadow.bad), (user.exposures, user.bad)) == ((1, 1), (1, 0))


def test_a_user_who_leaves_before_the_headers_is_no_exposure(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("stable/user", timeout=0.1, seconds=30)
    proxies.ask("stable/user")
    found = tally_of(proxies.counts(since, 1), "stable/user")
    assert (found.exposures, found.bad) == (1, 0)


def test_latencies_are_those_of_the_answers(proxies: Proxies) -> None:
    since = proxies.cursor()
    for seconds in (0.001, 1.05, 1.05):
        proxies.ask("canary/user", seconds=seconds)

    def latency() -> tuple[int, ...]:
        return tally_of(proxies.read(since), "canary/user").latency

    wait_for(lambda: sum(latency()) == 3, "three latencies")
    slow = [index for index, count in enumerate(latency()) if count == 2]
    assert len(slow) == 1
    assert 1000 < 1.1 ** slow[0] <= 2500 * 1.1


def test_reading_a_cursor_again_gives_at_least_what_it_gave(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("stable/user")
    first = proxies.counts(since, 1)
    proxies.ask("stable/user", "500")
    second = proxies.counts(first.cursor, 1)
    again = tally_of(proxies.counts(since, 2), "stable/user")

    assert (tally_of(second, "stable/user").exposures, tally_of(second, "stable/user").bad) == (1, 1)
    assert (again.exposures, again.bad) == (2, 1)


def test_what_happens_while_a_weight_changes_belongs_to_neither(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("stable/user")
    before = proxies.counts(since, 1)
    prometheus = Prometheus(proxies.prometheus.url)
    begun = prometheus.now()
    proxies.ask("stable/user", "500")
    change = Change(begun, prometheus.now())
    changed = Counts(before.cursor)

    def is_changed() -> bool:
        nonlocal changed
        changed = proxies.read(before.cursor, change)
        return changed.cursor != before.cursor

    wait_for(is_changed, "the change")
    assert (changed.tallies, changed.gap, changed.cursor) == ({}, "", str(Cursor(change.in_force, is_scrape=False)))

    wait_for(lambda: proxies.read(changed.cursor, change).cursor != changed.cursor, "scrapes after the change")
    proxies.ask("stable/user")
    found = Tally()

    def is_counted() -> bool:
        nonlocal found
        found = tally_of(proxies.read(changed.cursor, change), "stable/user")
        return found.exposures > 0

    wait_for(is_counted, "the request after the change")
    assert (found.exposures, found.bad) == (1, 0)


def test_what_is_in_flight_is_known_after_the_next_scrape(proxies: Proxies) -> None:
    prometheus = Prometheus(proxies.prometheus.url)

    def in_flight(arm: Arm, since: int) -> int | None:
        try:
            return proxies.counting.in_flight(arm, since)
        except RouterUnavailable:
            return None

    with proxies.stream("canary/user"):
        opened_at = prometheus.now()
        found: list[int | None] = []

        def are_known() -> bool:
            found[:] = in_flight(Arm.CANARY, opened_at), in_flight(Arm.STABLE, opened_at)
            return None not in found

        wait_for(are_known, "a scrape")
        assert found == [1, 0]
    proxies.two.next_chunk.set()
    wait_for(lambda: in_flight(Arm.CANARY, prometheus.now() - 500) == 0, "the end of the stream")
    proxies.two.next_chunk.clear()


def test_a_cursor_of_another_router_is_a_gap(proxies: Proxies) -> None:
    assert "was not made by this router" in proxies.counting.count("yesterday", NEVER).gap


def test_a_proxy_that_begins_anew_is_a_gap_and_counting_goes_on(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("stable/user")
    proxies.kill()
    proxies.start()
    latest = Counts(since)

    def is_told() -> bool:
        nonlocal latest
        latest = proxies.read(since)
        return bool(latest.gap)

    wait_for(is_told, "the gap")
    assert "began anew" in latest.gap
    assert latest.tallies == {}
    following = proxies.cursor()
    proxies.ask("stable/user")
    assert tally_of(proxies.counts(following, 1), "stable/user").exposures == 1


def test_a_proxy_that_is_not_scraped_holds_and_loses_nothing(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.ask("stable/user")
    proxies.counts(since, 1)
    proxies.process.send_signal(19)  # it stands still: no scrape succeeds

    def is_told() -> bool:
        try:
            proxies.counting.count(since, NEVER)
        except RouterUnavailable as error:
            return "was scraped in the last" in str(error)
        return False

    wait_for(is_told, "the silence")
    proxies.process.send_signal(18)
    wait_for(lambda: not is_told(), "the next scrape")
    assert tally_of(proxies.counts(since, 1), "stable/user").exposures == 1


def test_a_prometheus_that_is_down_holds_and_loses_nothing(proxies: Proxies) -> None:
    since = proxies.cursor()
    proxies.prometheus.stop()
    with pytest.raises(RouterUnavailable, match=r"does not answer: .*SLIPWAY_PROMETHEUS"):
        proxies.counting.count(since, NEVER)
    proxies.ask("stable/user")
    proxies.prometheus.start()
    assert tally_of(proxies.counts(since, 1), "stable/user").exposures == 1
