"""The state machine: every transition, and what silence does in each state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.ledger import Outcome, Phase, Rollout, RolloutState, Version
from pipelines.release.ports import FULL_BP, Served, SmokeReport
from pipelines.release.rollout import Seen, Transition, advance, champion_after, is_passed, may_be_lowered, roll_back
from tests.unit.release.fakes import candidate

NOW = 1000.0
LATE = NOW + 61.0


def version(word: str, number: int) -> Version:
    return Version(**candidate(word).model_dump(), id=number, number=number, run_id=f"run-{word}")


OLD, NEW = version("old", 1), version("new", 2)


def rollout(phase: Phase, *, stable: Version | None = OLD, **state: object) -> Rollout:
    fields: dict[str, object] = {"generation": 5, "deadline": NOW + 60, **state}
    return Rollout(
        id=1,
        service="docs",
        run_id="run-2",
        attempt=1,
        forced=False,
        candidate=NEW,
        stable=stable,
        state=RolloutState(phase=phase, **fields),  # type: ignore[arg-type]
        revision=1,
    )


def served(found: Version) -> Served:
    return Served(found.bento_version, found.model.digest)


def seen(**facts: object) -> Seen:
    return Seen(**{"now": NOW, "is_routed": True, "ready": frozenset({OLD.copy_name, NEW.copy_name}), **facts})  # type: ignore[arg-type]


STAGE, SMOKE, PROMOTING = Phase.STAGE, Phase.SMOKE, Phase.PROMOTING
PASSED = SmokeReport(passed=True, evidence="8")
REFUSED = SmokeReport(passed=False, evidence="golden request 0: expected 'a', got 'b'")


@pytest.mark.parametrize(
    ("before", "look", "phase", "is_done", "outcome"),
    [
        pytest.param(rollout(STAGE), seen(), STAGE, True, "", id="a-ready-and-routed-copy-is-staged"),
        pytest.param(rollout(STAGE), seen(ready=frozenset()), STAGE, False, "", id="a-copy-that-is-not-ready-waits"),
        pytest.param(rollout(STAGE), seen(is_routed=False), STAGE, False, "", id="a-copy-that-is-not-routed-waits"),
        pytest.param(
            rollout(STAGE), seen(ready=frozenset(), now=LATE), Phase.ROLLING_BACK, False, "unhealthy", id="never-ready"
        ),
        pytest.param(
            rollout(STAGE),
            seen(ready=frozenset(), problem="src/model differs", is_hopeless=True),
            Phase.ROLLING_BACK,
            False,
            "refused",
            id="a-damaged-bento-is-refused-at-once",
        ),
        pytest.param(rollout(STAGE, is_done=True), seen(), STAGE, True, "", id="staged-waits-for-its-permit"),
        pytest.param(
            rollout(STAGE, is_done=True), seen(permits=frozenset({"smoke"})), SMOKE, False, "", id="permit-to-smoke"
        ),
        pytest.param(
            rollout(STAGE, is_done=True), seen(now=LATE), Phase.ROLLING_BACK, False, "aborted", id="no-permit-in-time"
        ),
        pytest.param(rollout(SMOKE), seen(smoke=PASSED), SMOKE, True, "", id="golden-answers"),
        pytest.param(rollout(SMOKE), seen(smoke=REFUSED), Phase.ROLLING_BACK, False, "refused", id="wrong-answers"),
        pytest.param(rollout(SMOKE), seen(), SMOKE, False, "", id="no-answers-are-not-success"),
        pytest.param(rollout(SMOKE), seen(now=LATE), Phase.ROLLING_BACK, False, "unhealthy", id="no-answers-in-time"),
        pytest.param(
            rollout(SMOKE, is_done=True),
            seen(permits=frozenset({"promote"})),
            PROMOTING,
            False,
            "",
            id="permit-to-promote",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP), seen(is_routed=False), PROMOTING, False, "", id="unconfirmed-weight"
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(),
            PROMOTING,
            False,
            "",
            id="nobody-answers-yet",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(served=served(NEW)),
            Phase.DRAIN_OLD,
            False,
            "",
            id="served-by-the-candidate",
        ),
        pytest.param(
            rollout(PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP),
            seen(served=served(OLD)),
            Phase.ROLLING_BACK,
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
            id="first-release",
        ),
        pytest.param(rollout(Phase.DRAIN_OLD), seen(in_flight=2), Phase.DRAIN_OLD, False, "", id="still-answering"),
        pytest.param(rollout(Phase.DRAIN_OLD), seen(), Phase.DRAIN_OLD, False, "", id="an-unknown-count-is-not-zero"),
        pytest.param(rollout(Phase.DRAIN_OLD), seen(in_flight=0), Phase.DRAIN_OLD, True, "", id="drained"),
        pytest.param(
            rollout(Phase.DRAIN_OLD), seen(in_flight=2, now=LATE), Phase.DRAIN_OLD, True, "", id="drain-timeout"
        ),
        pytest.param(
            rollout(Phase.DRAIN_OLD, is_done=True),
            seen(running=frozenset({OLD.copy_name})),
            Phase.DRAIN_OLD,
            True,
            "",
            id="the-old-copy-runs-still",
        ),
        pytest.param(
            rollout(Phase.DRAIN_OLD, is_done=True), seen(), Phase.PROMOTED, False, "promoted", id="the-old-copy-is-gone"
        ),
        pytest.param(
            rollout(Phase.DRAIN_OLD, is_done=True),
            seen(running=frozenset({OLD.copy_name}), now=LATE),
            Phase.PROMOTED,
            False,
            "promoted",
            id="a-copy-that-does-not-stop-is-no-reason-to-hold-the-lock",
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK), seen(is_routed=False), Phase.ROLLING_BACK, False, "", id="not-back-yet"
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK),
            seen(is_routed=False, now=LATE),
            Phase.ROLLBACK_FAILED,
            False,
            "",
            id="never-back",
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK, confirmed_bp=0),
            seen(in_flight=0),
            Phase.ROLLING_BACK,
            True,
            "",
            id="back-and-drained",
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK, confirmed_bp=0, is_done=True),
            seen(served=served(OLD)),
            Phase.ROLLED_BACK,
            False,
            "",
            id="the-old-version-serves",
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK, confirmed_bp=0, is_done=True),
            seen(),
            Phase.ROLLING_BACK,
            True,
            "",
            id="unproven",
        ),
        pytest.param(
            rollout(Phase.ROLLING_BACK, stable=None, confirmed_bp=0, is_done=True),
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


@pytest.mark.parametrize("phase", [Phase.STAGE, Phase.SMOKE, Phase.PROMOTING, Phase.DRAIN_OLD])
def test_every_state_in_progress_goes_back_with_weight_0_and_a_newer_generation(phase: Phase) -> None:
    before = rollout(phase, canary_bp=FULL_BP, confirmed_bp=FULL_BP, is_done=True)
    after = roll_back(before, Outcome.ABORTED, "marked as failed", NOW)

    assert (after.phase, after.canary_bp, after.confirmed_bp) == (Phase.ROLLING_BACK, 0, None)
    assert after.generation == before.state.generation + 1
    assert (after.outcome, after.detail, after.is_done) == (Outcome.ABORTED, "marked as failed", False)


def test_a_queued_rollout_that_goes_back_is_over_at_once() -> None:
    assert roll_back(rollout(Phase.QUEUED), Outcome.ABORTED, "", NOW).phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("phase", [Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.PROMOTED])
def test_a_rollback_under_way_and_an_end_stay_as_they_are(phase: Phase) -> None:
    before = rollout(phase)
    assert roll_back(before, Outcome.ABORTED, "again", NOW) == before.state


def test_promotion_takes_full_weight_with_a_newer_generation_unconfirmed() -> None:
    after = advance(rollout(Phase.SMOKE, is_done=True, confirmed_bp=0), seen(permits=frozenset({"promote"})))
    assert (after.canary_bp, after.confirmed_bp, after.generation) == (FULL_BP, None, 6)


def test_the_candidate_is_champion_once_it_answered_a_user_and_a_later_rollback_gives_the_title_back() -> None:
    promoting = rollout(Phase.PROMOTING, canary_bp=FULL_BP, confirmed_bp=FULL_BP)
    draining = advance(promoting, seen(served=served(NEW)))
    assert champion_after(promoting, draining) == NEW

    now_draining = replace(promoting, state=draining)
    back = roll_back(now_draining, Outcome.ABORTED, "", NOW)
    assert champion_after(now_draining, back) == OLD
    assert champion_after(replace(promoting, state=back), back) is None


@pytest.mark.parametrize(
    ("state", "passed"),
    [
        pytest.param(RolloutState(Phase.QUEUED), "", id="queued"),
        pytest.param(RolloutState(Phase.STAGE), "", id="staging"),
        pytest.param(RolloutState(Phase.STAGE, is_done=True), "stage", id="staged"),
        pytest.param(RolloutState(Phase.SMOKE), "stage", id="smoking"),
        pytest.param(RolloutState(Phase.SMOKE, is_done=True), "stage smoke", id="smoked"),
        pytest.param(RolloutState(Phase.PROMOTING), "stage smoke", id="promoting"),
        pytest.param(RolloutState(Phase.DRAIN_OLD, is_done=True), "stage smoke", id="draining"),
        pytest.param(RolloutState(Phase.PROMOTED), "stage smoke promote", id="promoted"),
        pytest.param(RolloutState(Phase.NOT_NEEDED), "stage smoke promote", id="not-needed"),
        pytest.param(RolloutState(Phase.ROLLING_BACK), "", id="rolling-back"),
        pytest.param(RolloutState(Phase.ROLLED_BACK), "", id="rolled-back"),
    ],
)
def test_which_phases_are_behind_a_rollout(state: RolloutState, passed: str) -> None:
    assert [str(transition) for transition in Transition if is_passed(state, transition)] == passed.split()


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        pytest.param(rollout(Phase.PROMOTING, canary_bp=FULL_BP), True, id="users-on-an-unproven-candidate"),
        pytest.param(rollout(Phase.SMOKE), False, id="no-users-yet"),
        pytest.param(rollout(Phase.PROMOTING, canary_bp=FULL_BP, stable=None), False, id="first-release"),
        pytest.param(rollout(Phase.DRAIN_OLD, canary_bp=FULL_BP), False, id="champion-already"),
    ],
)
def test_who_may_lose_its_users_when_the_controller_is_dead(of: Rollout, expected: bool) -> None:
    assert may_be_lowered(of) is expected
