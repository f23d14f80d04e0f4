"""The audit: every look's verdict follows from its event, and whatever was altered afterwards shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipelines import ledger
from pipelines.ledger import Event, Outcome, Phase, Rollout
from pipelines.release.audit import AuditBroken, replayed
from pipelines.release.evidence import standing
from tests.simulations.trials import REFERENCES, RULES, Trial
from tests.unit.release.fakes import candidate
from tests.unit.release.traffic import GOOD, Behaviour

Facts = dict[str, Any]
MANY_ERRORS = Behaviour(error_rate=0.05)


def told(trial: Trial, rollout: Rollout) -> tuple[Rollout, list[Event]]:
    return rollout, ledger.events(trial.world.url, "docs")


@pytest.fixture(scope="module")
def promoted() -> tuple[Rollout, list[Event]]:
    """Return a rollout with a failed scrape and a dead fleet on its way, and its events."""
    trial = Trial.begin(21)
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.world.router.is_unreadable = True
    trial.world.pass_time(10)
    trial.world.router.is_unreadable = False
    trial.world.router.rejection = "listener docs: cannot bind"
    trial.world.pass_time(10)
    trial.world.router.rejection = ""
    return told(trial, trial.run_out())


@pytest.fixture(scope="module")
def worse() -> tuple[Rollout, list[Event]]:
    """Return a rollout that was rolled back as worse, and its events."""
    trial = Trial.begin(22, MANY_ERRORS)
    trial.score_pairs(worse=0.5)
    return told(trial, trial.run_out())


def test_a_promotion_is_computed_again_bit_for_bit(promoted: tuple[Rollout, list[Event]]) -> None:
    rollout, events = promoted
    looks = list(replayed(rollout, events))
    assert rollout.state.phase is Phase.PROMOTED
    assert len(looks) == sum("reading" in event.facts for event in events) > 10
    assert looks[-1].standing == standing(rollout.state.evidence, rollout.config)
    assert looks[-1].state.evidence.log_e == rollout.state.evidence.log_e
    assert looks[-1].state.evidence.totals == rollout.state.evidence.totals


def test_a_rollback_is_computed_again_with_its_reason(worse: tuple[Rollout, list[Event]]) -> None:
    rollout, events = worse
    last = list(replayed(rollout, events))[-1]
    assert (last.state.outcome, last.state.detail) == (Outcome.WORSE, rollout.state.detail)
    assert last.standing.log_e >= last.standing.log_limit


def count(facts: Facts) -> None:
    facts["reading"]["failures"]["shadow"]["canary_bad"] += 1


def invent(facts: Facts) -> None:
    facts["phase"], facts["outcome"], facts["detail"] = "shadow", "", ""


def embellish(facts: Facts) -> None:
    facts["standing"]["log_e"] -= 0.5


def hush(facts: Facts) -> None:
    facts["hold_reason"] = "all is well"


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(count, id="one-count"),
        pytest.param(invent, id="one-verdict"),
        pytest.param(embellish, id="one-e"),
        pytest.param(hush, id="one-reason"),
    ],
)
def test_an_altered_event_shows(worse: tuple[Rollout, list[Event]], alter: Callable[[Facts], None]) -> None:
    rollout, events = worse
    at = next(n for n, event in enumerate(events) if event.kind == "rolling_back")
    facts = copy.deepcopy(events[at].facts)
    alter(facts)
    forged = [*events[:at], replace(events[at], facts=facts), *events[at + 1 :]]
    with pytest.raises(AuditBroken, match=rf"event {events[at].seq} says .* but its counts give"):
        list(replayed(rollout, forged))


def test_a_look_that_was_left_out_shows(promoted: tuple[Rollout, list[Event]]) -> None:
    rollout, events = promoted
    counted = [n for n, event in enumerate(events) if (event.facts.get("reading") or {}).get("failures")]
    left_out = counted[len(counted) // 2]
    with pytest.raises(AuditBroken):
        list(replayed(rollout, events[:left_out] + events[left_out + 1 :]))


def test_looks_that_could_count_nothing_are_part_of_the_audit() -> None:
    trial = Trial.begin(23)
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.world.router.is_unreadable = True
    rollout, events = told(trial, trial.run_out())
    assert rollout.state.outcome is Outcome.NO_EVIDENCE
    assert list(replayed(rollout, events))[-1].state.outcome is Outcome.NO_EVIDENCE


def second_trial(trial: Trial, override: str = "") -> Rollout:
    again = candidate("two", against="one", config=RULES)
    opened = trial.world.open(again, "run-3", *trial.world.permits(RULES), override=override)
    trial.traffic.behaviours[trial.canary] = GOOD
    return trial.world.run_out(opened)


def test_a_second_trial_of_the_same_two_models_begins_with_the_case_against_it() -> None:
    trial = Trial.begin(24, Behaviour(error_rate=0.006))
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.world.pass_time(10)
    trial.traffic.users_per_second = 0.0
    first = trial.run_out()
    assert first.state.outcome is Outcome.NO_EVIDENCE
    trial.traffic.users_per_second = 20.0

    second, events = told(trial, second_trial(trial))
    inherited = [event.facts["inherited"] for event in events if "inherited" in event.facts]
    assert inherited == [
        {"log_e": {name: list(values) for name, values in first.state.evidence.log_e.items()}, "pairs": 40}
    ]
    looks = list(replayed(second, events))
    assert looks[-1].state.evidence.log_e == second.state.evidence.log_e
    assert looks[0].state.evidence.bets.get("errors", (0.0,)) == (0.0,) or looks[0].state.evidence.looks == 1


def test_worse_weights_are_refused_until_a_person_says_why_and_then_e_starts_at_1() -> None:
    trial = Trial.begin(25, MANY_ERRORS)
    trial.score_pairs(worse=0.5)
    assert trial.run_out().state.outcome is Outcome.WORSE

    refused = second_trial(trial)
    assert refused.state.outcome is Outcome.REFUSED
    assert "rolled this bento back as worse" in refused.state.detail

    opened = trial.world.open(candidate("two", against="one", config=RULES), "run-4", override="the network was broken")
    trial.world.pass_time(1)
    begun = trial.world.read(opened)
    assert (begun.state.phase, begun.override) == (Phase.STAGE, "the network was broken")
    assert standing(begun.state.evidence, RULES).log_e == pytest.approx(0.0)
    assert begun.state.evidence.pairs == REFERENCES, "what was looked at then is not looked at again"
