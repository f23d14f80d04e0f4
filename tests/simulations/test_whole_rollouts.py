"""Whole rollouts through the real controller, on a fake clock: good ones are promoted, bad ones are not, none hangs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines import ledger
from pipelines.ledger import Outcome, Phase
from pipelines.release.ports import Arm, Counts
from pipelines.spec.serving import QualityConfig
from tests.simulations.trials import REFERENCES, RULES, Trial
from tests.unit.release.fakes import artifact
from tests.unit.release.traffic import GOOD, Behaviour

ERRORS = Behaviour(error_rate=0.05)
SLOW = Behaviour(slowness=2.0)
SLOW_UNDER_LOAD = Behaviour(slowness=3.0, slow_from_bp=5000)
INVALID = Behaviour(invalid_rate=0.2)


def finished(kind: str, seed: int) -> tuple[str, str]:
    """Run a rollout out and return how it ended."""
    behaviour = {"errors": ERRORS, "slow": SLOW if seed % 2 else SLOW_UNDER_LOAD}.get(kind, GOOD)
    trial = Trial.begin(seed, behaviour)
    trial.score_pairs(worse=0.9 if kind == "worse answers" else 0.5, seed=seed)
    if kind == "slow":
        trial.learn()
    if kind == "dead":
        trial.run_until(Phase.STEP)
        trial.world.fleet.slow.add(trial.canary)
    ended = trial.run_out()
    assert ledger.verify_chain(trial.world.url, "docs") > 0
    serving = ended.candidate if ended.state.phase is Phase.PROMOTED else ended.stable
    assert serving is not None
    assert trial.world.router.receiver("docs") == serving.copy_name
    assert ledger.champion(trial.world.url, "docs") == serving
    return str(ended.state.phase), str(ended.state.outcome)


def test_of_20_rollouts_the_12_good_are_promoted_and_the_8_bad_rolled_back() -> None:
    kinds = ["good"] * 12 + ["errors", "slow", "worse answers", "dead"] * 2
    ends = [(kind, finished(kind, seed)) for seed, kind in enumerate(kinds, start=1)]
    assert ends == [
        *[("good", ("promoted", "promoted"))] * 12,
        *[
            ("errors", ("rolled_back", "worse")),
            ("slow", ("rolled_back", "worse")),
            ("worse answers", ("rolled_back", "worse")),
            ("dead", ("rolled_back", "worse")),
        ]
        * 2,
    ]


def test_errors_and_invalid_answers_are_found_in_the_mirror_before_any_user() -> None:
    for behaviour in (ERRORS, INVALID):
        trial = Trial.begin(3, behaviour)
        trial.score_pairs(worse=0.5)
        assert trial.run_out().state.outcome is Outcome.WORSE
        assert all(held.route.split.canary_bp == 0 for held in trial.world.router.history[2:])


def test_what_is_slow_only_under_load_is_found_at_the_weight_where_it_shows() -> None:
    trial = Trial.begin(4, SLOW_UNDER_LOAD)
    trial.learn()
    trial.score_pairs(worse=0.5)
    ended = trial.run_out()
    assert (ended.state.outcome, ended.state.step) == (Outcome.WORSE, 1)
    assert "most of it from " in ended.state.detail


def test_the_time_at_a_weight_counts_only_from_when_latencies_can_be_judged() -> None:
    """Stable's latencies become known at the first weight: by then its bake is long over."""
    trial = Trial.begin(4)
    trial.score_pairs(worse=0.5)
    risen = trial.run_while(lambda rollout: rollout.state.step == 0).state.evidence
    assert risen.latency_since is not None
    assert risen.looked_at is not None
    assert risen.looked_at - risen.latency_since >= RULES.bake_seconds


def test_what_is_slow_from_its_first_request_meets_no_second_weight() -> None:
    trial = Trial.begin(4, Behaviour(slowness=4.0))
    trial.score_pairs(worse=0.5)
    ended = trial.run_out()
    assert (ended.state.outcome, ended.state.step) == (Outcome.WORSE, 0)


def test_worse_text_with_200_answers_only_is_rolled_back_by_pairs_before_any_user() -> None:
    trial = Trial.begin(5)
    trial.score_pairs(worse=0.9)
    ended = trial.run_out()
    assert ended.state.outcome is Outcome.WORSE
    assert "most of it from quality" in ended.state.detail
    assert ended.state.evidence.pairs == REFERENCES
    assert ended.state.evidence.totals.get("canary/user", (0, 0)) == (0, 0)


def test_the_same_worse_text_is_promoted_with_quality_off() -> None:
    """The control run: nothing else would have found it."""
    trial = Trial.begin(5, config=RULES.model_copy(update={"quality": QualityConfig(enabled=False)}))
    trial.score_pairs(worse=0.9)
    assert trial.run_out().state.phase is Phase.PROMOTED


def test_an_incident_that_hits_both_versions_holds_and_is_no_reason_to_go_back() -> None:
    trial = Trial.begin(6)
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.traffic.users_per_second = 60.0
    trial.traffic.behaviours = dict.fromkeys(trial.world.fleet.list(), Behaviour(error_rate=0.5))
    for _ in range(6):
        trial.world.pass_time(10)
    state = trial.world.read(trial.rollout).state
    assert (state.phase, state.step) == (Phase.STEP, 0)
    assert "both versions fail" in state.hold_reason


def silence_router(trial: Trial) -> None:
    trial.world.router.is_unreadable = True


def leave_gaps(trial: Trial) -> None:
    trial.world.router.gap = "Envoy began anew; what it had not written down is lost"


def silence_canary(trial: Trial) -> None:
    """As LocalFleet does when there is no answer, or one with NaN in it."""
    trial.world.fleet.silent.add(trial.canary)


def end_traffic(trial: Trial) -> None:
    trial.traffic.users_per_second = trial.traffic.pinned_per_second = 0.0


def end_users(trial: Trial) -> None:
    trial.traffic.users_per_second = 0.0


def make_stale(trial: Trial) -> None:
    """Every reading is the last one again."""
    stale = trial.traffic.counts("docs", None)
    meters = {copy: trial.traffic.meter(copy) for copy in trial.world.fleet.list()}
    trial.traffic.counts = lambda _service, _since: Counts(stale.cursor)  # type: ignore[method-assign]
    trial.traffic.meter = lambda copy: meters[copy]  # type: ignore[method-assign]


def freeze_meters(trial: Trial) -> None:
    """The services' counters are the last ones again; the router counts on."""
    meters = {copy: trial.traffic.meter(copy) for copy in trial.world.fleet.list()}
    trial.traffic.meter = lambda copy: meters[copy]  # type: ignore[method-assign]


def restart_counters(trial: Trial) -> None:
    """A copy whose process begins anew before every look."""
    flow = trial.traffic.flow

    def flow_then_restart(*arguments: object) -> None:
        flow(*arguments)  # type: ignore[arg-type]
        trial.traffic.restart(trial.canary)

    trial.traffic.flow = flow_then_restart  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        pytest.param(silence_router, "the access log cannot be read", id="failed-scrape-of-the-router"),
        pytest.param(leave_gaps, "Envoy began anew", id="gap"),
        pytest.param(silence_canary, "does not tell its metrics", id="failed-scrape-or-nan-of-the-service"),
        pytest.param(end_traffic, "user exposures at this weight", id="no-data"),
        pytest.param(end_users, "user exposures at this weight", id="no-users"),
        pytest.param(make_stale, "user exposures at this weight", id="stale-counts"),
        pytest.param(freeze_meters, "the counters of stable stand still", id="stale-metrics"),
        pytest.param(restart_counters, "the counters of canary stand still", id="counter-reset"),
    ],
)
def test_silence_is_not_success(break_it: Callable[[Trial], None], reason: str) -> None:
    trial = Trial.begin(7)
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    break_it(trial)
    for _ in range(4):
        trial.world.pass_time(10)
    assert reason in trial.world.read(trial.rollout).state.hold_reason
    ended = trial.run_out()
    assert (ended.state.phase, ended.state.outcome) == (Phase.ROLLED_BACK, Outcome.NO_EVIDENCE)


def test_without_the_silence_the_same_rollout_is_promoted() -> None:
    """The control run of the test above."""
    trial = Trial.begin(7)
    trial.score_pairs(worse=0.5)
    assert trial.run_out().state.phase is Phase.PROMOTED


def test_a_scrape_that_fails_once_costs_a_look_and_nothing_else() -> None:
    trial = Trial.begin(8)
    trial.score_pairs(worse=0.5)
    trial.run_until(Phase.STEP)
    trial.world.router.is_unreadable = True
    trial.world.pass_time(10)
    assert trial.world.read(trial.rollout).state.hold_reason == "the access log cannot be read"
    before = trial.world.read(trial.rollout).state.evidence.totals

    trial.world.router.is_unreadable = False
    trial.world.pass_time(10)
    counted = trial.world.read(trial.rollout).state.evidence.totals
    assert counted["stable/user"][0] - before["stable/user"][0] > 300, "the counts of both looks"
    assert trial.run_out().state.phase is Phase.PROMOTED


def test_too_few_references_hold_before_the_first_user() -> None:
    trial = Trial.begin(9)
    trial.score_pairs(worse=0.5, count=REFERENCES - 1)
    ended = trial.run_out()
    assert ended.state.outcome is Outcome.NO_EVIDENCE
    assert ended.state.evidence.totals.get("canary/user", (0, 0)) == (0, 0)


@pytest.mark.parametrize("arm", Arm)
def test_a_version_that_gives_no_valid_answer_to_a_reference_is_the_worse_one(arm: Arm) -> None:
    trial = Trial.begin(10)
    for number in range(REFERENCES):
        scores = {Arm.STABLE: -1.0, Arm.CANARY: -1.0, arm: None}
        pair = ledger.Pair(str(number), scores[Arm.STABLE], scores[Arm.CANARY])
        ledger.insert_pair(trial.world.url, "docs", artifact("model", "one"), artifact("model", "two"), pair)
    ended = trial.run_out()
    assert ended.state.outcome is (Outcome.WORSE if arm is Arm.CANARY else Outcome.PROMOTED)
