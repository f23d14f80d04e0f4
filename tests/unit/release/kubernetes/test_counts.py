"""Counts from scrapes that a test made up: what is counted, what belongs to which reading, what is lost."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipelines.formats.headers import Traffic
from pipelines.release.kubernetes.counts import Change, Counting, Cursor
from pipelines.release.ports import LATENCY_BOUNDS_MS, Arm, Counts, RouterUnavailable
from tests.unit.release.kubernetes.told import CANARY, STABLE, START, Proxy, ToldPrometheus, source

NEVER = Change(0, 0)


class Case:
    """One proxy, or two, scraped twice before a test begins."""

    def __init__(self, num_proxies: int = 1) -> None:
        self.told = ToldPrometheus()
        self.proxies = [Proxy(f"proxy-{number + 1}") for number in range(num_proxies)]
        self.counting = Counting(self.told, source())
        self.scrape()
        after = self.counting.count(None, NEVER).cursor
        self.scrape()
        self.scrape()
        self.cursor = self.counting.count(after, NEVER).cursor

    @property
    def proxy(self) -> Proxy:
        return self.proxies[0]

    def scrape(self, **times: float) -> int:
        return self.told.scrape(*self.proxies, **times)

    def read(self, since: str | None = None, change: Change = NEVER) -> Counts:
        return self.counting.count(since or self.cursor, change)


def users(counts: Counts, arm: Arm = Arm.STABLE) -> tuple[int, int]:
    found = counts.tallies.get((arm, Traffic.USER))
    return (found.exposures, found.bad) if found else (0, 0)


def test_both_arms_are_read_at_one_moment() -> None:
    case = Case()
    case.proxy.answer(STABLE, 90)
    case.proxy.answer(CANARY, 10)
    case.proxy.answer(CANARY, 2, 503)
    at = case.scrape()
    counts = case.read()

    assert (users(counts), users(counts, Arm.CANARY)) == ((90, 0), (12, 2))
    assert (counts.cursor, counts.gap) == (f"at:{at}", "")


def test_counts_of_several_proxies_end_at_a_moment_that_each_was_scraped_at() -> None:
    case = Case(num_proxies=2)
    one, two = case.proxies
    one.answer(STABLE, 5)
    two.answer(STABLE, 7)
    end = case.told.scrape(two)
    two.answer(STABLE, 100)
    case.told.scrape(one, seconds=1)
    case.told.scrape(two)
    first = case.read()
    case.scrape()
    second = case.read(first.cursor)

    assert users(first)[0] + users(second)[0] == 5 + 7 + 100
    assert int(first.cursor.removeprefix("at:")) > end


def test_no_new_scrape_is_no_count_and_no_gap() -> None:
    case = Case()
    case.proxy.answer(STABLE)
    assert case.read() == Counts(case.cursor)


def test_a_fresh_cursor_counts_nothing_from_before_the_first_scrape_after_it() -> None:
    case = Case()
    fresh = case.counting.count(None, NEVER).cursor
    case.proxy.answer(STABLE, 40)
    case.scrape()
    assert case.read(fresh) == Counts(fresh)
    case.proxy.answer(STABLE, 2)
    case.scrape()
    assert users(case.read(fresh)) == (2, 0)


def test_a_missed_scrape_loses_nothing() -> None:
    case = Case()
    case.proxy.answer(STABLE, 3)
    case.told.scrape(seconds=30)
    case.proxy.answer(STABLE, 4)
    case.scrape()
    assert users(case.read()) == (7, 0)


@pytest.mark.parametrize(
    ("closed", "refused", "retried", "broken"),
    [
        pytest.param(3, 0, 0, 3, id="all-broke-after-their-headers"),
        pytest.param(3, 3, 0, 0, id="all-broke-before-their-headers"),
        pytest.param(3, 1, 1, 1, id="what-is-left"),
        pytest.param(1, 5, 0, 0, id="refusals-of-the-service-itself"),
    ],
)
def test_a_broken_stream_is_counted_at_most_once(closed: int, refused: int, retried: int, broken: int) -> None:
    case = Case()
    case.proxy.answer(CANARY, 20)
    case.proxy.answer(CANARY, refused, 503)
    case.proxy.close(CANARY, closed)
    case.proxy.count("envoy_cluster_upstream_rq_retry", retried, envoy_cluster_name=CANARY)
    case.scrape()
    assert users(case.read(), Arm.CANARY)[1] == refused + broken


def test_latencies_go_to_our_bucket_of_their_upper_bound() -> None:
    case = Case()
    case.proxy.take(CANARY, "100", 6)
    case.proxy.take(CANARY, "250", 3)
    case.proxy.take(CANARY, "+Inf", 1)
    case.scrape()
    latency = case.read().tallies[Arm.CANARY, Traffic.USER].latency
    found = {index: count for index, count in enumerate(latency) if count}

    assert list(found.values()) == [6, 3, 1]
    for index, bound in zip(found, (100, 250, math.inf), strict=True):
        assert index == len(LATENCY_BOUNDS_MS) or LATENCY_BOUNDS_MS[index - 1] < bound <= LATENCY_BOUNDS_MS[index]


def test_a_scrape_interval_with_both_weights_belongs_to_neither() -> None:
    case = Case()
    case.proxy.answer(STABLE, 10)
    end = case.scrape()
    case.proxy.answer(STABLE, 1000, 503)
    change = Change(begun=end + 5_000, in_force=end + 7_000)
    case.scrape()
    before = case.read(change=change)
    case.proxy.answer(STABLE, 3)
    case.scrape()

    assert (users(before), before.cursor) == ((10, 0), f"after:{change.in_force}")
    assert users(case.read(before.cursor, change)) == (3, 0)


def test_a_proxy_that_was_added_counts_from_its_beginning() -> None:
    case = Case()
    added = Proxy("proxy-2", begun=case.told.time + 1000)
    added.answer(STABLE, 8)
    case.proxies.append(added)
    case.scrape()
    assert users(case.read()) == (8, 0)


def _fall(case: Case) -> None:
    case.proxy.answer(STABLE, 9)
    case.scrape()
    case.proxy.answer(STABLE, -4)
    case.scrape()


def _no_number(case: Case) -> None:
    case.proxy.answer(STABLE, math.nan)
    case.scrape()


def _begin_anew(case: Case) -> None:
    case.proxy.begin_anew(case.told.time)
    case.proxy.answer(STABLE, 1_000_000)
    case.scrape()


def _go_away(case: Case) -> None:
    gone = case.proxies.pop()
    assert gone.name == "proxy-2"
    for _ in range(6):
        case.scrape()


def _join_unseen(case: Case) -> None:
    old = Proxy("proxy-3", begun=START)
    old.answer(STABLE, 1_000_000)
    case.proxies.append(old)
    case.scrape()


@pytest.mark.parametrize(
    ("happen", "why"),
    [
        pytest.param(_fall, "fell from 9 to 5", id="a-counter-fell"),
        pytest.param(_no_number, "is no number", id="nan"),
        pytest.param(_begin_anew, "proxy-1 began anew", id="a-proxy-restarted-and-counts-more-than-before"),
        pytest.param(_go_away, "proxy-2 is not scraped any more", id="a-proxy-is-gone"),
        pytest.param(_join_unseen, "proxy-3 was not scraped when the counting began", id="a-proxy-nobody-scraped"),
    ],
)
def test_what_is_lost_is_a_gap_and_the_next_reading_is_whole(happen: Callable[[Case], None], why: str) -> None:
    case = Case(num_proxies=2)
    happen(case)
    lost = case.read()
    assert why in lost.gap
    assert lost.tallies == {}

    case.scrape()
    case.proxy.answer(CANARY, 2)
    case.scrape()
    following = case.read(lost.cursor)
    if math.isfinite(sum(value for _, value in case.proxy.metrics(0))):
        assert (following.gap, users(following, Arm.CANARY)) == ("", (2, 0))
    else:
        assert "is no number" in following.gap


def test_silence_of_all_proxies_is_not_known_and_not_lost() -> None:
    case = Case()
    case.proxy.answer(STABLE, 5)
    case.told.scrape(seconds=90)
    with pytest.raises(RouterUnavailable, match="no proxy with this route was scraped in the last 60 s"):
        case.read()
    case.scrape()
    assert users(case.read()) == (5, 0)


@pytest.mark.parametrize("text", ["yesterday", "at:", "at:-1", "1:2:3:4:5:6", ""])
def test_a_cursor_that_is_none_of_ours_is_a_gap(text: str) -> None:
    case = Case()
    assert Cursor.parse(text) is None
    if text:
        assert "was not made by this router" in case.read(text).gap
