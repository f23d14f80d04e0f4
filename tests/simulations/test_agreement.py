"""Whether router and copies counted the same requests: what may differ for good reasons, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines import ledger
from pipelines.formats.headers import Traffic
from pipelines.ledger import Evidence, Phase
from pipelines.release import audit
from pipelines.release.agreement import MIN_COMPARED, added, disagreement
from pipelines.release.counting import take_reading
from pipelines.release.evidence import begin_weight
from pipelines.release.ports import Arm, Observed, Route, Split, Target
from pipelines.release.reading import Counted, Reading
from pipelines.release.rollout import advance
from pipelines.release.verdict import VerdictKind, judge
from tests.simulations import trials
from tests.simulations.trials import Trial
from tests.unit.release.fakes import FakeFleet, FakeRouter
from tests.unit.release.states import ENOUGH, NEW, NOW, OLD, RULES, reading, seen, watched
from tests.unit.release.traffic import GOOD, Behaviour, Drawn

FAILING = Behaviour(error_rate=0.08)
IMPATIENT = Behaviour(left_rate=0.15)
CURIOUS = Behaviour(uncounted_rate=0.3)
"""Three of ten requests ask for the list of models."""

FORGETFUL = Behaviour(uncounted_rate=0.1)
LOOK_SECONDS, NUM_LOOKS = 10.0, 60
STICKY = RULES.model_copy(update={"session_header": "X-Session"})


class Looks:
    """Looks at drawn traffic at one weight, without the statistics around the counts."""

    def __init__(self, seed: int, canary: Behaviour = GOOD, stable: Behaviour = GOOD, *, weight_bp: int = 2500) -> None:
        self.traffic = Drawn(seed, pinned_per_second=4.0)
        self.traffic.behaviours = {NEW.copy_name: canary, OLD.copy_name: stable}
        self.fleet, self.router = FakeFleet(traffic=self.traffic), FakeRouter(traffic=self.traffic)
        self.fleet.copies = {OLD.copy_name: OLD, NEW.copy_name: NEW}
        self.config = RULES
        self.evidence = Evidence()
        addresses = [self.fleet.start(version) for version in (OLD, NEW)]
        stable_target, canary_target = (
            Target(version.copy_name, address) for version, address in zip((OLD, NEW), addresses, strict=True)
        )
        self.split = Split(weight_bp)
        self._route = Route("docs", 8100, stable_target, canary_target)
        self.look()

    def look(self) -> str:
        """Let time pass, look, and return what is said to disagree."""
        held = Observed(replace(self._route, split=self.split), 1)
        self.traffic.flow(LOOK_SECONDS, {"docs": held}, self.fleet.ready)
        rollout = watched(Phase.STEP, self.split.canary_bp, evidence=self.evidence, config=self.config)
        found = take_reading(rollout, NOW, url="", fleet=self.fleet, router=self.router)
        meters = {**self.evidence.meters, **found.meters}
        counted = added(self.evidence.counted, found)
        self.evidence = self.evidence.model_copy(update={"cursor": found.cursor, "meters": meters, "counted": counted})
        return disagreement(counted)

    def all(self, count: int = NUM_LOOKS) -> list[str]:
        """Return what was said to disagree in so many looks."""
        return [told for told in (self.look() for _ in range(count)) if told]


@pytest.mark.parametrize(
    ("canary", "stable", "lag"),
    [
        pytest.param(GOOD, GOOD, 0, id="all-is-well"),
        pytest.param(GOOD, GOOD, 1, id="the-router-is-a-look-behind"),
        pytest.param(FAILING, GOOD, 1, id="canary-fails-and-stable-answers-for-it"),
        pytest.param(GOOD, FAILING, 0, id="stable-fails"),
        pytest.param(IMPATIENT, GOOD, 0, id="users-leave-a-slow-canary"),
        pytest.param(CURIOUS, CURIOUS, 1, id="many-requests-generate-nothing"),
        pytest.param(replace(CURIOUS, left_rate=0.1), CURIOUS, 0, id="many-generate-nothing-and-some-leave"),
    ],
)
@pytest.mark.parametrize("weight_bp", [500, 5000])
def test_what_differs_for_a_good_reason_is_never_held_against_a_release(
    canary: Behaviour, stable: Behaviour, lag: int, weight_bp: int
) -> None:
    for seed in range(20):
        looks = Looks(seed, canary, stable, weight_bp=weight_bp)
        looks.traffic.lag = lag
        assert looks.all() == [], f"seed {seed}"


@pytest.mark.parametrize(
    ("canary", "stable"),
    [
        pytest.param(FORGETFUL, GOOD, id="canary-loses-counts"),
        pytest.param(GOOD, FORGETFUL, id="stable-loses-counts"),
        pytest.param(
            replace(CURIOUS, uncounted_rate=0.45), CURIOUS, id="canary-loses-some-where-others-are-not-counted"
        ),
    ],
)
def test_a_copy_that_loses_counts_which_the_other_keeps_is_found(canary: Behaviour, stable: Behaviour) -> None:
    for seed in range(20):
        told = Looks(seed, canary, stable).all()
        assert told, f"seed {seed}"
        assert "one of the copies does not tell all" in told[-1]


def test_a_copy_that_counts_twice_is_found() -> None:
    totals = {"canary/user": (1000, 0, 0, 2000, 10), "stable/user": (1000, 0, 0, 1000, 10)}
    assert disagreement(totals) == (
        "of user requests canary counted 2000 itself and the router 1000; stable 1000 and 1000: one of the copies does "
        "not tell all"
    )


@pytest.mark.parametrize(
    ("missed", "is_held"), [pytest.param(45, False, id="within"), pytest.param(80, True, id="beyond")]
)
def test_the_limit_is_2_percent_and_what_one_look_brings(missed: int, is_held: bool) -> None:
    """Of 1,000 requests: 20, 5 in flight at each copy, and about 30 by chance, if they are some that nobody counts."""
    totals = {"canary/pinned": (1000, 0, 0, 1000 - missed, 5), "stable/pinned": (1000, 0, 0, 1000, 5)}
    assert bool(disagreement(totals)) == is_held


def test_few_requests_say_nothing() -> None:
    few = MIN_COMPARED - 1
    assert disagreement({"canary/user": (few, 0, 0, 0, 1), "stable/user": (5000, 0, 0, 5000, 1)}) == ""


def test_mirrored_requests_are_compared_with_stables_users() -> None:
    totals = {"canary/shadow": (1000, 0, 0, 500, 10), "stable/user": (1000, 0, 0, 1000, 10)}
    assert disagreement(totals).startswith("of shadow requests canary counted 500 itself")


def test_a_share_that_changes_with_the_hour_is_no_loss_of_a_copy() -> None:
    """Over both weights together the arms differ by more than 2 %: each has more of its requests from another hour."""
    looks = Looks(1, CURIOUS, CURIOUS, weight_bp=500)
    assert looks.all() == []
    before = looks.evidence.counted
    looks.evidence = begin_weight(looks.evidence, NOW)
    looks.split, looks.traffic.behaviours = Split(5000), {}
    assert looks.all() == []
    together = {
        key: (*(old + new for old, new in zip(values[:4], looks.evidence.counted[key][:4], strict=True)), values[4])
        for key, values in before.items()
    }
    assert disagreement(together) != ""


def restart(looks: Looks) -> None:
    looks.traffic.restart(NEW.copy_name)


def lose_the_log(looks: Looks) -> None:
    looks.router.gap = "Envoy began anew"
    looks.look()
    looks.router.gap = ""


def silence_canary(looks: Looks) -> None:
    looks.fleet.silent.add(NEW.copy_name)
    assert looks.all(3) == []
    looks.fleet.silent.clear()


def silence_router(looks: Looks) -> None:
    looks.router.is_unreadable = True
    looks.all(3)
    looks.router.is_unreadable = False


@pytest.mark.parametrize("happens", [restart, lose_the_log, silence_canary, silence_router])
@pytest.mark.parametrize("canary", [GOOD, FAILING], ids=["good", "failing"])
def test_restarts_and_silence_are_caught_up_with(happens: Callable[[Looks], None], canary: Behaviour) -> None:
    for seed in range(10):
        looks = Looks(seed, canary)
        looks.all(20)
        happens(looks)
        looks.look()
        assert looks.all(30) == [], f"seed {seed}"


def test_a_loss_after_a_restart_is_still_found() -> None:
    looks = Looks(1)
    looks.all(10)
    restart(looks)
    looks.traffic.behaviours[NEW.copy_name] = FORGETFUL
    assert looks.all() != []


def test_a_router_that_is_silent_is_not_taken_for_copies_that_count_too_much() -> None:
    looks = Looks(1)
    looks.all(20)
    before = looks.evidence.counted
    looks.router.is_unreadable = True
    looks.look()
    assert looks.evidence.counted["stable/user"][0] == before["stable/user"][0], "nothing from the router"
    looks.router.is_unreadable = False
    looks.look()
    exposures, _, _, requests, _ = looks.evidence.counted["stable/user"]
    assert abs(requests - exposures) < 0.01 * exposures


def test_sessions_are_not_compared_with_requests() -> None:
    looks = Looks(1, FORGETFUL)
    looks.config = STICKY
    looks.look()
    assert set(looks.evidence.counted) == {"canary/pinned", "stable/pinned"}


def test_any_count_that_begins_anew_begins_all_anew() -> None:
    totals = {"canary/user": (1000, 0, 0, 500, 10)}
    assert added(totals, Reading(at=NOW, cursor="1", is_anew=True)) == {}
    grown = added(totals, reading(counted={"canary/user": Counted(exposures=7, requests=30)}))
    assert grown == {"canary/user": (1007, 0, 0, 530, 30)}


def test_a_disagreement_holds_a_look_that_lacks_nothing_else() -> None:
    state = watched(Phase.STEP, 500).state
    assert judge(ENOUGH, reading(), state, RULES).kind is VerdictKind.ADVANCE
    lost = {"canary/user": (1000, 0, 0, 500, 10), "stable/user": (9000, 0, 0, 9000, 90)}
    verdict = judge(ENOUGH.model_copy(update={"counted": lost}), reading(), state, RULES)
    assert verdict.kind is VerdictKind.HOLD
    assert verdict.reason.startswith("of user requests canary counted 500 itself and the router 1000")


def test_a_new_weight_compares_anew() -> None:
    lost = ENOUGH.model_copy(update={"counted": {"canary/user": (1000, 0, 0, 500, 10)}})
    confirmed = advance(watched(Phase.STEP, 500, evidence=lost, confirmed_bp=None, deadline=NOW + 60), seen())
    assert confirmed.confirmed_bp == 500
    assert confirmed.evidence.counted == {}


def test_a_version_that_loses_counts_is_held_and_the_audit_says_the_same() -> None:
    trial = Trial.begin(11, config=trials.RULES.model_copy(update={"bake_seconds": 300.0, "max_hold_seconds": 3600.0}))
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.run_while(lambda rollout: rollout.state.step == 0)
    trial.traffic.behaviours[trial.canary] = Behaviour(uncounted_rate=0.5)
    for _ in range(12):
        trial.world.pass_time(10)
    rollout = trial.world.read(trial.rollout)
    assert "one of the copies does not tell all" in rollout.state.hold_reason
    assert rollout.state.phase is Phase.STEP
    events = ledger.events(trial.world.url, "docs", rollout=rollout.id)
    last = list(audit.replayed(rollout, events))[-1]
    assert last.state.hold_reason == rollout.state.hold_reason
    assert last.state.evidence.counted == rollout.state.evidence.counted
    assert f"{Arm.CANARY}/{Traffic.USER}" in last.reading.counted
