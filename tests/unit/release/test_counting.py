"""Readings: what both sides counted since the last look, and what must not be taken for a count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.ledger import Evidence, Phase
from pipelines.release.counting import take_reading
from pipelines.release.ports import Arm, Counts, FleetError, RouterUnavailable, Sessions, Tally
from pipelines.release.reading import Compared, Reading
from pipelines.spec import RolloutConfig
from tests.unit.release.states import ENOUGH, NEW, NOW, OLD, RULES, watched
from tests.unit.release.traffic import counters

Metered = Mapping[Traffic, ServiceCounters]
STICKY = RULES.model_copy(update={"session_header": "X-Session"})
SHADOWED = {
    (Arm.STABLE, Traffic.USER): Tally(100, 1),
    (Arm.CANARY, Traffic.SHADOW): Tally(90, 2),
}


class Told:
    """A fleet and a router that say what a test tells them."""

    def __init__(self, counts: Counts | None = None, **meters: Metered | str) -> None:
        self.found = counts or Counts("11")
        self.meters = {OLD.copy_name: meters.get("stable", {}), NEW.copy_name: meters.get("canary", {})}
        self.asked: list[tuple[str | None, Sessions | None]] = []

    def counts(self, _service: str, since: str | None, sessions: Sessions | None = None) -> Counts:
        self.asked.append((since, sessions))
        if self.found.gap == "away":
            raise RouterUnavailable("Envoy does not answer")
        return self.found

    def meter(self, copy: str) -> Metered:
        found = self.meters[copy]
        if isinstance(found, str):
            raise FleetError(found)
        return found

    def ready(self, _copy: str) -> bool:
        return True


def taken(told: Told, before: Evidence = ENOUGH, config: RolloutConfig = RULES) -> Reading:
    rollout = watched(Phase.STEP, 500, evidence=before, config=config)
    return take_reading(rollout, NOW, url="sqlite://", fleet=told, router=told)  # type: ignore[arg-type]


def after(reading: Reading, before: Evidence = ENOUGH) -> Evidence:
    return before.model_copy(update={"meters": reading.meters, "cursor": reading.cursor})


def users(answered: int, **others: int) -> Metered:
    return {Traffic.USER: counters(answered, **others)}


def test_mirrored_requests_are_compared_with_the_users_requests_that_they_copy() -> None:
    reading = taken(Told(Counts("11", SHADOWED)))
    assert reading.failures[Traffic.SHADOW] == Compared(canary=90, canary_bad=2, stable=100, stable_bad=1)
    assert reading.failures[Traffic.USER] == Compared(stable=100, stable_bad=1)


def test_mirrored_requests_are_not_compared_with_sessions() -> None:
    told = Told(Counts("11", SHADOWED))
    reading = taken(told, ENOUGH.model_copy(update={"mark": "5"}), STICKY)
    assert reading.failures[Traffic.SHADOW] == Compared(canary=90, canary_bad=2)
    assert told.asked == [("9", Sessions("5", 60.0))]


def test_a_router_that_cannot_be_read_loses_no_count() -> None:
    reading = taken(Told(Counts("", gap="away")))
    assert (reading.failures, reading.cursor, reading.hold) == ({}, "9", "Envoy does not answer")


def test_counts_with_a_gap_are_not_used_and_counting_goes_on_behind_it() -> None:
    reading = taken(Told(Counts("11", SHADOWED, gap="Envoy began anew")))
    assert (reading.failures, reading.cursor, reading.hold) == ({}, "11", "Envoy began anew")


def test_the_services_counters_count_from_the_second_look_on() -> None:
    first = taken(Told(stable=users(1000), canary=users(50, invalid=3)))
    assert (first.invalid, first.hold) == ({}, "")
    second = taken(Told(stable=users(1090), canary=users(60, invalid=4)), after(first))
    assert second.invalid == {Traffic.USER: Compared(canary=10, canary_bad=1, stable=90)}


def test_counters_that_began_anew_hold_one_look_and_count_from_there() -> None:
    first = taken(Told(stable=users(1000), canary=users(50)))
    reset = taken(Told(stable=users(1090), canary=users(5)), after(first))
    assert reset.hold == "the counters of canary began anew"
    assert reset.invalid[Traffic.USER].canary == 0
    third = taken(Told(stable=users(1100), canary=users(9)), after(reset))
    assert (third.invalid[Traffic.USER].canary, third.hold) == (4, "")


def test_a_scrape_in_the_middle_of_an_answer_waits_for_its_other_half() -> None:
    first = taken(Told(stable=users(1000), canary=users(50)))
    torn = taken(Told(stable=users(1001), canary=users(50, invalid=1)), after(first))
    assert torn.hold == "the counters of canary do not agree with each other"
    whole = taken(Told(stable=users(1002), canary=users(51, invalid=1)), after(torn))
    assert whole.invalid[Traffic.USER] == Compared(canary=1, canary_bad=1, stable=1)


def test_a_service_that_does_not_tell_holds_and_is_caught_up_with() -> None:
    first = taken(Told(stable=users(1000), canary=users(50)))
    silent = taken(Told(stable=users(1010), canary="no answer"), after(first))
    assert silent.hold == "the counters of canary cannot be read: no answer"
    kept = after(silent).model_copy(update={"meters": {**first.meters, **silent.meters}})
    assert taken(Told(stable=users(1020), canary=users(70)), kept).invalid[Traffic.USER].canary == 20


@pytest.mark.parametrize(
    ("n", "bad", "is_held"),
    [
        pytest.param(100, 0, True, id="the-router-saw-good-requests"),
        pytest.param(100, 100, False, id="the-copy-never-got-them"),
        pytest.param(10, 0, False, id="a-few-may-be-in-flight"),
    ],
)
def test_metrics_that_stand_still_while_requests_pass_are_stale(n: int, bad: int, is_held: bool) -> None:
    first = taken(Told(stable=users(1000), canary=users(50)))
    counts = Counts("12", {(Arm.CANARY, Traffic.USER): Tally(n, bad)})
    still = taken(Told(counts, stable=users(1010), canary=users(50)), after(first))
    assert still.hold == (
        "the counters of canary stand still, but the router saw 100 of its requests" if is_held else ""
    )


def test_users_requests_are_no_unit_where_sessions_are() -> None:
    first = taken(Told(stable=users(1000), canary=users(50)), config=STICKY)
    assert taken(Told(stable=users(1090), canary=users(60)), after(first), STICKY).invalid == {}


def test_a_reading_is_small_enough_for_an_event_and_comes_back_the_same() -> None:
    latency = (0,) * 40 + (5, 3) + (0,) * 89
    counts = Counts("11", {(Arm.CANARY, Traffic.USER): Tally(8, 0, latency), (Arm.STABLE, Traffic.USER): Tally(8)})
    reading = taken(Told(counts))
    written: dict[str, Any] = reading.model_dump(mode="json", exclude={"meters"}, exclude_defaults=True)
    assert written["latencies"]["headers/user"] == {"canary": {"40": 5, "41": 3}}
    assert Reading.model_validate(written) == reading
