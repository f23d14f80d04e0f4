"""The state machine: every transition, and what silence does in each state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.ledger import Evidence, Outcome, Phase, Rollout
from pipelines.release.ports import FULL_BP, SmokeReport
from pipelines.release.rollout import Seen, advance, champion_after, may_be_lowered, roll_back
from pipelines.spec.serving import ApprovalConfig, QualityConfig
from tests.unit.release.states import ENOUGH, NEW, NOW, OLD, RULES, reading, rollout, seen, served, users, watched

LATE = NOW + 61.0
STAGE, SMOKE, WARMUP, SHADOW, STEP = Phase.STAGE, Phase.SMOKE, Phase.WARMUP, Phase.SHADOW, Phase.STEP
PROMOTING, BAKE_FULL, DRAIN_OLD = Phase.PROMOTING, Phase.BAKE_FULL, Phase.DRAIN_OLD
BACK = Phase.ROLLING_BACK

PASSED = SmokeReport(passed=True, evidence="8")
REFUSED = SmokeReport(passed=False, evidence="golden request 0: expected 'a', got 'b'")
WORSE = users(canary=400, canary_bad=40, stable=7600, stable_bad=8)
BOTH_BAD = users(canary=400, canary_bad=20, stable=7600, stable_bad=380)
NO_USERS = ENOUGH.model_copy(update={"exposures": 0})
TIRED = ENOUGH.model_copy(update={"exposures": 0, "held_seconds": 3600.0})
DEAD = ENOUGH.model_copy(update={"unready_since": NOW - 31})
ASKING = RULES.model_copy(update={"approval": ApprovalConfig(before_users=True, before_promotion=True)})
SCORING = RULES.model_copy(update={"quality": QualityConfig(enabled=True, min_pairs=200)})


def fresh(**evidence: Any) -> Evidence:
    return ENOUGH.model_copy(update=evidence)


@pytest.mark.parametrize(
    ("before", "look", "phase", "is_done", "outcome"),
    [
        pytest.param(rollout(STAGE), seen(), STAGE, True, "", id="a-ready-and-routed-copy-is-staged"),
        pytest.param(rollout(STAGE), seen(ready={OLD.copy_name}), STAGE, False, "", id="a-copy-not-ready-waits"),
        pytest.param(rollout(STAGE), seen(is_routed=False), STAGE, False, "", id="a-copy-not-routed-waits"),
        pytest.param(rollout(STAGE), seen(ready={NEW.copy_name}), STAGE, False, "", id="nowhere-to-go-back-to-waits"),
        pytest.param(rollout(STAGE), seen(refusal=None), STAGE, False, "", id="not-vetted-is-not-accepted"),
        pytest.param(rollout(STAGE), seen(refusal="interface"), BACK, False, "refused", id="vetted-and-refused"),
        pytest.param(rollout(STAGE), seen(ready=set(), now=LATE), BACK, False, "unhealthy", id="never-ready"),
        pytest.param(rollout(STAGE), seen(refusal=None, now=LATE), BACK, False, "unhealthy", id="never-vetted"),
        pytest.param(
            rollout(STAGE),
            seen(ready=set(), problem="src/model differs", is_hopeless=True),
            BACK,
            False,
            "refused",
            id="a-damaged-bento-is-refused-at-once",
        ),
        pytest.param(rollout(STAGE, is_done=True), seen(), STAGE, True, "", id="staged-waits-for-its-permit"),
        pytest.param(rollout(STAGE, is_done=True), seen("smoke"), SMOKE, False, "", id="permit-to-smoke"),
        pytest.param(rollout(STAGE, is_done=True), seen("warmup"), STAGE, True, "", id="another-permit-is-no-permit"),
        pytest.param(rollout(STAGE, is_done=True), seen(now=LATE), BACK, False, "aborted", id="no-permit-in-time"),
        pytest.param(rollout(SMOKE), seen(smoke=PASSED), SMOKE, True, "", id="golden-answers"),
        pytest.param(rollout(SMOKE), seen(smoke=REFUSED), BACK, False, "refused", id="wrong-golden-answers"),
        pytest.param(rollout(SMOKE), seen(), SMOKE, False, "", id="no-golden-answers-are-not-success"),
        pytest.param(rollout(SMOKE), seen(now=LATE), BACK, False, "unhealthy", id="no-golden-answers-in-time"),
        pytest.param(rollout(SMOKE, is_done=True), seen("warmup"), WARMUP, False, "", id="permit-to-warm-up"),
        pytest.param(rollout(SMOKE, is_done=True), seen(now=LATE), BACK, False, "aborted", id="smoke-no-permit"),
        pytest.param(rollout(WARMUP), seen(is_warm=True), WARMUP, True, "", id="warm"),
        pytest.param(rollout(WARMUP), seen(), WARMUP, False, "", id="not-warm"),
        pytest.param(rollout(WARMUP), seen(now=LATE), BACK, False, "unhealthy", id="never-warm"),
        pytest.param(rollout(WARMUP, is_done=True), seen("shadow"), SHADOW, False, "", id="permit-to-mirror"),
        pytest.param(rollout(WARMUP, is_done=True), seen("promote"), WARMUP, True, "", id="no-way-round-the-mirror"),
        pytest.param(
            rollout(WARMUP, is_done=True, stable=None), seen("promote"), PROMOTING, False, "", id="first-release"
        ),
        pytest.param(
            rollout(WARMUP, is_done=True, is_direct=True), seen("promote"), PROMOTING, False, "", id="direct-return"
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP), seen(is_routed=False), PROMOTING, False, "", id="unconfirmed-weight"
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP),
            seen(is_routed=False, now=LATE),
            BACK,
            False,
            "unhealthy",
            id="never-confirmed",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP), seen(), PROMOTING, False, "", id="no-answer"
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(now=LATE),
            BACK,
            False,
            "unhealthy",
            id="no-answer-in-time",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(served=served(NEW)),
            BAKE_FULL,
            False,
            "",
            id="served-by-the-candidate",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP, is_direct=True),
            seen(served=served(NEW)),
            DRAIN_OLD,
            False,
            "",
            id="a-direct-return-is-not-baked",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(served=served(OLD)),
            BACK,
            False,
            "unhealthy",
            id="served-by-somebody-else",
        ),
        pytest.param(
            rollout(PROMOTING, stable=None, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(served=served(NEW)),
            Phase.PROMOTED,
            False,
            "promoted",
            id="first-release-is-promoted",
        ),
        pytest.param(rollout(DRAIN_OLD), seen(in_flight=2), DRAIN_OLD, False, "", id="still-answering"),
        pytest.param(rollout(DRAIN_OLD), seen(), DRAIN_OLD, False, "", id="an-unknown-count-is-not-zero"),
        pytest.param(rollout(DRAIN_OLD), seen(in_flight=0), DRAIN_OLD, True, "", id="drained"),
        pytest.param(rollout(DRAIN_OLD), seen(in_flight=2, now=LATE), DRAIN_OLD, True, "", id="drain-timeout"),
        pytest.param(
            rollout(DRAIN_OLD, is_done=True), seen(running={OLD.copy_name}), DRAIN_OLD, True, "", id="old-copy-runs"
        ),
        pytest.param(rollout(DRAIN_OLD, is_done=True), seen(), Phase.PROMOTED, False, "promoted", id="old-copy-gone"),
        pytest.param(
            rollout(DRAIN_OLD, is_done=True),
            seen(running={OLD.copy_name}, now=LATE),
            Phase.PROMOTED,
            False,
            "promoted",
            id="a-copy-that-does-not-stop-is-no-reason-to-hold-the-lock",
        ),
        pytest.param(rollout(BACK), seen(), BACK, False, "", id="back"),
        pytest.param(rollout(BACK), seen(is_routed=False), BACK, False, "", id="not-back-yet"),
        pytest.param(rollout(BACK), seen(is_routed=False, now=LATE), Phase.ROLLBACK_FAILED, False, "", id="never-back"),
        pytest.param(rollout(BACK, confirmed_bp=0), seen(in_flight=1), BACK, False, "", id="back-but-answering"),
        pytest.param(rollout(BACK, confirmed_bp=0), seen(in_flight=0), BACK, True, "", id="back-and-drained"),
        pytest.param(
            rollout(BACK, confirmed_bp=0, is_done=True),
            seen(served=served(OLD), running={NEW.copy_name}),
            BACK,
            True,
            "",
            id="the-candidate-runs-still",
        ),
        pytest.param(
            rollout(BACK, confirmed_bp=0, is_done=True),
            seen(served=served(OLD)),
            Phase.ROLLED_BACK,
            False,
            "",
            id="the-old-version-serves",
        ),
        pytest.param(rollout(BACK, confirmed_bp=0, is_done=True), seen(), BACK, True, "", id="unproven"),
        pytest.param(
            rollout(BACK, confirmed_bp=0, is_done=True),
            seen(served=served(NEW), now=LATE),
            Phase.ROLLBACK_FAILED,
            False,
            "",
            id="never-proven",
        ),
        pytest.param(
            rollout(BACK, stable=None, confirmed_bp=0, is_done=True),
            seen(),
            Phase.ROLLED_BACK,
            False,
            "",
            id="after-a-first-release-nobody-serves",
        ),
        pytest.param(rollout(Phase.PROMOTED), seen(now=LATE), Phase.PROMOTED, False, "", id="an-end-is-an-end"),
    ],
)
def test_one_look(before: Rollout, look: Seen, phase: Phase, is_done: bool, outcome: str) -> None:
    after = advance(before, look)
    assert (after.phase, after.is_done, after.outcome) == (phase, is_done, outcome)


@pytest.mark.parametrize(
    ("before", "look", "expected", "reason"),
    [
        pytest.param(watched(SHADOW), seen(), (SHADOW, True, ""), "", id="mirrored-long-enough"),
        pytest.param(
            watched(SHADOW, is_done=True),
            seen(),
            (SHADOW, True, ""),
            "the permit to advance_005",
            id="mirror-no-permit",
        ),
        pytest.param(watched(SHADOW, is_done=True), seen("advance_005"), (STEP, False, ""), "", id="first-users"),
        pytest.param(
            watched(SHADOW, evidence=fresh(since=NOW - 20)),
            seen(),
            (SHADOW, False, ""),
            "20 of 30 s",
            id="mirror-longer",
        ),
        pytest.param(watched(SHADOW, evidence=NO_USERS), seen(), (SHADOW, True, ""), "", id="a-mirror-needs-no-user"),
        pytest.param(
            watched(SHADOW, config=SCORING, evidence=fresh(pairs=199)),
            seen(),
            (SHADOW, False, ""),
            "199 of 200 reference pairs",
            id="no-user-before-the-pairs-are-scored",
        ),
        pytest.param(
            watched(SHADOW), seen(reading=reading(failures=WORSE)), (BACK, False, "worse"), "", id="worse-in-the-mirror"
        ),
        pytest.param(watched(STEP, 500), seen(), (STEP, True, ""), "", id="enough-evidence"),
        pytest.param(watched(STEP, 500, is_done=True), seen("advance_025"), (STEP, False, ""), "", id="next-weight"),
        pytest.param(
            watched(STEP, 500, is_done=True), seen(), (STEP, True, ""), "the permit to advance_025", id="no-permit-yet"
        ),
        pytest.param(
            watched(STEP, 500, is_done=True, deadline=NOW + 60),
            seen(now=LATE),
            (BACK, False, "aborted"),
            "",
            id="no-permit-in-time",
        ),
        pytest.param(
            watched(STEP, 500, is_done=True, deadline=NOW + 60),
            seen("advance_025", now=LATE),
            (STEP, False, ""),
            "",
            id="a-permit-in-the-last-moment-counts",
        ),
        pytest.param(
            watched(STEP, 500, is_done=True, deadline=NOW + 60, evidence=NO_USERS),
            seen(now=LATE),
            (BACK, False, "aborted"),
            "",
            id="a-hold-does-not-stop-the-wait-for-a-permit",
        ),
        pytest.param(
            watched(STEP, 5000, step=2, is_done=True),
            seen("promote"),
            (PROMOTING, False, ""),
            "",
            id="permit-to-promote",
        ),
        pytest.param(
            watched(STEP, 5000, step=2, is_done=True), seen("bake"), (STEP, True, ""), "permit to promote", id="not-yet"
        ),
        pytest.param(
            watched(STEP, 500, evidence=fresh(since=NOW - 59)), seen(), (STEP, False, ""), "59 of 60 s", id="bake-time"
        ),
        pytest.param(watched(STEP, 500, evidence=NO_USERS), seen(), (STEP, False, ""), "0 of 50 user", id="no-users"),
        pytest.param(
            watched(STEP, 500, evidence=fresh(bets={"errors": (9.0,) * 3})),
            seen(),
            (STEP, False, ""),
            "evidence on validity is 1 of 20",
            id="nothing-counted-is-no-evidence",
        ),
        pytest.param(
            watched(STEP, 500, is_done=True, evidence=fresh(bets={"errors": (2.9,) * 3, "validity": (9.0,) * 3})),
            seen("advance_025"),
            (STEP, True, ""),
            "evidence on errors is 18.2 of 20",
            id="evidence-is-asked-for-now-not-once",
        ),
        pytest.param(
            watched(STEP, 500),
            seen(reading=reading(hold="Envoy began anew")),
            (STEP, False, ""),
            "Envoy began anew",
            id="a-gap-holds",
        ),
        pytest.param(
            watched(STEP, 500),
            seen(reading=reading(hold="Envoy began anew", failures=WORSE)),
            (BACK, False, "worse"),
            "",
            id="a-reason-to-hold-never-suppresses-a-rollback",
        ),
        pytest.param(
            watched(STEP, 500), seen(reading=None), (STEP, False, ""), "nothing could be counted", id="nothing-counted"
        ),
        pytest.param(
            watched(STEP, 500, evidence=fresh(held_seconds=3595.0)),
            seen(reading=None),
            (BACK, False, "no_evidence"),
            "",
            id="nothing-counted-for-too-long",
        ),
        pytest.param(
            watched(STEP, 500, evidence=TIRED), seen(), (BACK, False, "no_evidence"), "", id="held-for-too-long"
        ),
        pytest.param(
            watched(STEP, 500, evidence=TIRED),
            seen(reading=reading(failures=WORSE)),
            (BACK, False, "worse"),
            "",
            id="worse-is-said-before-too-long",
        ),
        pytest.param(
            watched(STEP, 500, evidence=DEAD),
            seen(reading=reading(is_ready=False, failures=WORSE)),
            (BACK, False, "unhealthy"),
            "",
            id="dead-is-said-before-worse",
        ),
        pytest.param(
            watched(STEP, 500),
            seen(reading=reading(is_ready=False)),
            (STEP, False, ""),
            "the new copy is not ready",
            id="not-ready-for-a-moment",
        ),
        pytest.param(watched(STEP, 500, evidence=DEAD), seen(), (STEP, True, ""), "", id="ready-again"),
        pytest.param(
            watched(STEP, 500), seen(reading=reading(failures=BOTH_BAD)), (STEP, False, ""), "both versions", id="slo"
        ),
        pytest.param(
            watched(STEP, 500),
            seen(reading=reading(failures=users(canary=500, stable=500))),
            (STEP, False, ""),
            "not divided as planned",
            id="split-alarm",
        ),
        pytest.param(
            watched(STEP, 500),
            seen(is_routed=False),
            (STEP, False, ""),
            "does not have the weight",
            id="weight-was-lost",
        ),
        pytest.param(
            watched(STEP, 500, confirmed_bp=None),
            seen(is_routed=False),
            (STEP, False, ""),
            "not confirmed",
            id="unconfirmed",
        ),
        pytest.param(
            watched(STEP, 500, confirmed_bp=None, deadline=NOW + 60),
            seen(is_routed=False, now=LATE),
            (BACK, False, "unhealthy"),
            "",
            id="weight-never-confirmed",
        ),
        pytest.param(
            watched(STEP, 500, confirmed_bp=None),
            seen(is_routed=False, reading=reading(failures=WORSE)),
            (BACK, False, "worse"),
            "",
            id="worse-while-the-router-keeps-the-old-weight",
        ),
        pytest.param(watched(BAKE_FULL, FULL_BP), seen(), (BAKE_FULL, True, ""), "", id="baked"),
        pytest.param(
            watched(BAKE_FULL, FULL_BP, is_done=True), seen("bake"), (DRAIN_OLD, False, ""), "", id="permit-to-end"
        ),
        pytest.param(
            watched(BAKE_FULL, FULL_BP, evidence=fresh(since=NOW - 200)),
            seen("bake"),
            (BAKE_FULL, False, ""),
            "200 of 300 s",
            id="the-old-copy-stays-warm",
        ),
        pytest.param(
            watched(BAKE_FULL, FULL_BP, evidence=NO_USERS), seen(), (BAKE_FULL, True, ""), "", id="nothing-left-to-earn"
        ),
        pytest.param(
            watched(BAKE_FULL, FULL_BP),
            seen(reading=reading(failures=users(canary=500, canary_bad=30))),
            (BACK, False, "worse"),
            "",
            id="too-many-bad-answers-at-100",
        ),
        pytest.param(
            watched(STEP, 500),
            seen(reading=reading(failures=users(canary=500, canary_bad=30))),
            (STEP, False, ""),
            "not divided",
            id="before-100-bad-answers-are-compared",
        ),
        pytest.param(
            watched(BAKE_FULL, FULL_BP, evidence=DEAD),
            seen(reading=reading(is_ready=False)),
            (BACK, False, "unhealthy"),
            "",
            id="dead-at-100",
        ),
        pytest.param(
            watched(BAKE_FULL, FULL_BP, is_done=True, deadline=NOW + 60),
            seen(now=LATE),
            (BACK, False, "aborted"),
            "",
            id="nobody-ends-the-bake",
        ),
    ],
)
def test_one_look_at_a_weight(before: Rollout, look: Seen, expected: tuple[Phase, bool, str], reason: str) -> None:
    after = advance(before, look)
    assert (after.phase, after.is_done, after.outcome) == expected
    assert reason in after.hold_reason
    assert bool(after.hold_reason) == bool(reason)


@pytest.mark.parametrize(
    ("before", "look", "weight", "step"),
    [
        pytest.param(rollout(WARMUP, is_done=True), seen("shadow"), 0, 0, id="mirror"),
        pytest.param(watched(SHADOW, is_done=True), seen("advance_005"), 500, 0, id="5"),
        pytest.param(watched(STEP, 500, is_done=True), seen("advance_025"), 2500, 1, id="25"),
        pytest.param(watched(STEP, 2500, step=1, is_done=True), seen("advance_050"), 5000, 2, id="50"),
        pytest.param(watched(STEP, 5000, step=2, is_done=True), seen("promote"), FULL_BP, 2, id="100"),
        pytest.param(rollout(WARMUP, is_done=True, stable=None), seen("promote"), FULL_BP, 0, id="first-release"),
    ],
)
def test_a_new_weight_is_unconfirmed_and_has_a_newer_generation(
    before: Rollout, look: Seen, weight: int, step: int
) -> None:
    after = advance(before, look)
    assert (after.canary_bp, after.step, after.confirmed_bp, after.is_done) == (weight, step, None, False)
    assert after.generation == before.state.generation + 1


def test_a_weight_counts_only_from_its_confirmation_on() -> None:
    before = watched(STEP, 500, confirmed_bp=None)
    look = seen(reading=reading(failures=users(canary=40, stable=760)))
    confirmed = advance(before, look)
    assert (confirmed.confirmed_bp, confirmed.evidence.exposures, confirmed.evidence.since) == (500, 0, NOW)
    assert confirmed.evidence.mark == "10", "only sessions that begin after this moment count"

    later = advance(
        replace(before, state=confirmed),
        seen(now=NOW + 10, reading=reading(NOW + 10, failures=users(canary=40, stable=760))),
    )
    assert later.evidence.exposures == 40
    assert later.evidence.totals["canary/user"] == (80, 0), "for people, everything counts"


def test_a_hold_resumes_by_itself_and_only_its_own_time_is_counted() -> None:
    before = watched(STEP, 500)
    held = advance(before, seen(reading=reading(hold="the access log cannot be read")))
    assert held.evidence.held_seconds == 10.0

    again = advance(replace(before, state=held), seen(now=NOW + 10))
    assert (again.is_done, again.hold_reason) == (True, "")
    assert again.evidence.held_seconds == 10.0


def test_a_controller_that_was_away_does_not_use_up_the_patience() -> None:
    before = watched(STEP, 500, evidence=NO_USERS)
    after = advance(before, seen(now=NOW + 5000))
    assert after.phase is STEP
    assert after.evidence.held_seconds == 2 * RULES.look_seconds


def test_waiting_for_a_permit_uses_up_no_patience_for_evidence() -> None:
    before = watched(STEP, 500, is_done=True, deadline=NOW + 600)
    for look in range(1, 60):
        after = advance(before, seen(now=NOW + 10 * look))
        before = replace(before, state=after)
    assert (after.phase, after.evidence.held_seconds) == (STEP, 0.0)


@pytest.mark.parametrize(
    ("before", "permit", "approval"),
    [
        pytest.param(watched(SHADOW, config=ASKING), "advance_005", "approve_users", id="before-users"),
        pytest.param(watched(STEP, 5000, step=2, config=ASKING), "promote", "approve_promotion", id="before-promotion"),
    ],
)
def test_an_approval_is_asked_for_besides_the_permit_and_has_its_own_time(
    before: Rollout, permit: str, approval: str
) -> None:
    asked = replace(before, state=advance(before, seen()))
    assert asked.state.deadline == NOW + 600 + 86_400
    waiting = advance(asked, seen(permit, now=NOW + 3600))
    assert waiting.hold_reason == f"waiting for a person's approval ({approval})"
    assert advance(asked, seen(approval)).hold_reason == f"waiting for the permit to {permit}"
    assert advance(asked, seen(permit, approval)).phase is not before.state.phase

    silent = advance(asked, seen(permit, now=NOW + 600 + 86_401))
    assert (silent.phase, silent.outcome) == (BACK, Outcome.ABORTED)
    assert silent.detail == f"a person's approval ({approval}) did not come within 87000 s"


def test_looks_go_on_while_a_person_is_asked() -> None:
    asked = watched(SHADOW, config=ASKING, is_done=True, deadline=NOW + 86_400)
    worse = advance(asked, seen("advance_005", reading=reading(failures=WORSE)))
    assert (worse.phase, worse.outcome) == (BACK, Outcome.WORSE)


def test_a_first_release_needs_both_approvals_before_its_first_user() -> None:
    warm = rollout(WARMUP, stable=None, config=ASKING)
    asked = replace(warm, state=advance(warm, seen(is_warm=True)))
    assert asked.state.deadline == NOW + 600 + 2 * 86_400
    assert advance(asked, seen("promote")).hold_reason == "waiting for a person's approval (approve_users)"
    half = advance(asked, seen("promote", "approve_users"))
    assert half.hold_reason == "waiting for a person's approval (approve_promotion)"
    assert advance(asked, seen("promote", "approve_users", "approve_promotion")).phase is PROMOTING


def test_a_persons_order_to_return_needs_no_second_approval() -> None:
    warm = rollout(WARMUP, is_direct=True, config=ASKING, is_done=True)
    assert advance(warm, seen("promote")).phase is PROMOTING


IN_PROGRESS = [STAGE, SMOKE, WARMUP, SHADOW, STEP, PROMOTING, BAKE_FULL, DRAIN_OLD]


@pytest.mark.parametrize("phase", IN_PROGRESS)
def test_every_state_in_progress_goes_back_with_weight_0_and_a_newer_generation(phase: Phase) -> None:
    before = rollout(phase, canary_bp=FULL_BP, confirmed_bp=FULL_BP, is_done=True)
    after = roll_back(before, Outcome.ABORTED, "marked as failed", NOW)

    assert (after.phase, after.canary_bp, after.confirmed_bp) == (BACK, 0, None)
    assert after.generation == before.state.generation + 1
    assert (after.outcome, after.detail, after.is_done) == (Outcome.ABORTED, "marked as failed", False)


def test_a_queued_rollout_that_goes_back_is_over_at_once() -> None:
    assert roll_back(rollout(Phase.QUEUED), Outcome.ABORTED, "", NOW).phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("phase", [BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.PROMOTED, Phase.NOT_NEEDED])
def test_a_rollback_under_way_and_an_end_stay_as_they_are(phase: Phase) -> None:
    before = rollout(phase)
    assert roll_back(before, Outcome.ABORTED, "again", NOW) == before.state


def test_the_candidate_is_champion_once_it_answered_a_user_and_a_later_rollback_gives_the_title_back() -> None:
    promoting = rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP)
    baking = advance(promoting, seen(served=served(NEW)))
    assert champion_after(promoting, baking) == NEW

    now_baking = replace(promoting, state=baking)
    back = roll_back(now_baking, Outcome.ABORTED, "", NOW)
    assert champion_after(now_baking, back) == OLD
    assert champion_after(replace(promoting, state=back), back) is None


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        pytest.param(rollout(STEP, canary_bp=500), True, id="users-on-a-canary"),
        pytest.param(rollout(PROMOTING, canary_bp=FULL_BP), True, id="users-on-an-unproven-candidate"),
        pytest.param(rollout(BAKE_FULL, canary_bp=FULL_BP), True, id="the-old-copy-is-warm"),
        pytest.param(rollout(SHADOW), False, id="no-users-yet"),
        pytest.param(rollout(PROMOTING, canary_bp=FULL_BP, stable=None), False, id="first-release"),
        pytest.param(rollout(DRAIN_OLD, canary_bp=FULL_BP), False, id="the-old-copy-is-leaving"),
    ],
)
def test_who_may_lose_its_users_when_the_controller_is_dead(of: Rollout, expected: bool) -> None:
    assert may_be_lowered(of) is expected
