"""A rollout's turn: begun, not needed, or refused before anything is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.ledger import Evidence, Outcome, Phase, Rollout, RolloutState, Service, Version
from pipelines.release.admission import admit
from tests.unit.release.fakes import artifact
from tests.unit.release.states import NEW, NOW, OLD, rollout, version

MET_OLD = NEW.model_copy(update={"evaluated_against": OLD.model})
CASE = Evidence(log_e={"errors": (2.0,) * 20}, bets={"errors": (5.0,) * 3}, pairs=120, exposures=900, cursor="7")


def queued(candidate: Version = MET_OLD, **fields: Any) -> Rollout:
    return replace(rollout(Phase.QUEUED), candidate=candidate, stable=None, **fields)


def trial(outcome: Outcome, *, against: Version = OLD, phase: Phase = Phase.ROLLED_BACK) -> Rollout:
    state = RolloutState(phase=phase, outcome=outcome, detail="E = 200 of 100", evidence=CASE, generation=7)
    return replace(rollout(Phase.QUEUED), id=9, candidate=MET_OLD, stable=against, state=state)


def admitted(of: Rollout, *trials: Rollout, champion: Version | None = OLD, was_promoted: bool = False) -> RolloutState:
    service = Service(name="docs", port=8100, champion=champion, generation=41)
    return admit(of, service, trials=trials, was_promoted=was_promoted, now=NOW)


REPACKAGED = MET_OLD.model_copy(update={"model": OLD.model, "evaluated_against": None})


@pytest.mark.parametrize(
    ("state", "phase", "outcome"),
    [
        pytest.param(admitted(queued()), Phase.STAGE, "", id="begun"),
        pytest.param(admitted(queued(NEW), champion=None), Phase.STAGE, "", id="first-release"),
        pytest.param(admitted(queued(OLD)), Phase.NOT_NEEDED, "already_serving", id="the-champion-itself"),
        pytest.param(admitted(queued(), was_promoted=True), Phase.NOT_NEEDED, "superseded", id="replaced-earlier"),
        pytest.param(admitted(queued(forced=True), was_promoted=True), Phase.STAGE, "", id="replaced-but-forced"),
        pytest.param(admitted(queued(is_direct=True), was_promoted=True), Phase.STAGE, "", id="return"),
        pytest.param(admitted(queued(NEW)), Phase.ROLLED_BACK, "refused", id="met-another-champion"),
        pytest.param(admitted(queued(REPACKAGED), was_promoted=True), Phase.STAGE, "", id="champion-in-a-new-bento"),
        pytest.param(admitted(queued(), trial(Outcome.WORSE)), Phase.ROLLED_BACK, "refused", id="was-worse"),
        pytest.param(admitted(queued(), trial(Outcome.REFUSED)), Phase.ROLLED_BACK, "refused", id="was-refused"),
        pytest.param(
            admitted(queued(), trial(Outcome.WORSE, phase=Phase.ROLLBACK_FAILED)),
            Phase.ROLLED_BACK,
            "refused",
            id="hard",
        ),
        pytest.param(
            admitted(queued(override="data was broken"), trial(Outcome.WORSE)), Phase.STAGE, "", id="was-worse-override"
        ),
        pytest.param(admitted(queued(), trial(Outcome.NO_EVIDENCE)), Phase.STAGE, "", id="no-evidence-may-try-again"),
        pytest.param(admitted(queued(), trial(Outcome.UNHEALTHY)), Phase.STAGE, "", id="unhealthy-may-try-again"),
        pytest.param(admitted(queued(), trial(Outcome.ABORTED)), Phase.STAGE, "", id="aborted-may-try-again"),
        pytest.param(admitted(queued(), trial(Outcome.DEAD_MAN)), Phase.STAGE, "", id="dead-man-may-try-again"),
        pytest.param(admitted(queued(is_direct=True), trial(Outcome.WORSE)), Phase.STAGE, "", id="a-person-orders"),
    ],
)
def test_what_becomes_of_a_rollout(state: RolloutState, phase: Phase, outcome: str) -> None:
    assert (state.phase, state.outcome) == (phase, outcome)
    if phase is Phase.STAGE:
        assert (state.generation, state.deadline) == (41, NOW + 180), "fenced by what the service had last"


def test_a_refusal_names_the_rollout_and_the_way_out() -> None:
    detail = admitted(queued(), trial(Outcome.WORSE)).detail
    assert detail == (
        "rollout 9 rolled this bento back as worse (E = 200 of 100); make a better one, or say why it may try again "
        "(trigger with `override`)"
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(
            admitted(queued(), trial(Outcome.NO_EVIDENCE)),
            Evidence(log_e=CASE.log_e, pairs=120),
            id="the-case-against-is-carried-the-one-for-it-begins-anew",
        ),
        pytest.param(
            admitted(queued(override="a person"), trial(Outcome.WORSE)),
            Evidence(pairs=120),
            id="override-starts-e-at-1-and-looks-at-no-pair-twice",
        ),
        pytest.param(
            admitted(queued(), trial(Outcome.ABORTED, against=version("older", 3))), Evidence(), id="another-champion"
        ),
        pytest.param(
            admitted(queued(), trial(Outcome.ABORTED, against=version("older", 3)), trial(Outcome.NO_EVIDENCE)),
            Evidence(log_e=CASE.log_e, pairs=120),
            id="the-last-trial-of-this-pair-counts-whatever-was-between",
        ),
        pytest.param(
            admitted(queued(forced=True), trial(Outcome.PROMOTED, phase=Phase.PROMOTED), was_promoted=True),
            Evidence(),
            id="a-promotion-closed-the-case",
        ),
    ],
)
def test_what_a_second_trial_inherits(state: RolloutState, expected: Evidence) -> None:
    assert state.phase is Phase.STAGE
    assert state.evidence == expected


def test_the_pair_is_one_of_models_not_of_bentos() -> None:
    repackaged = OLD.model_copy(update={"bento": artifact("bento", "again")})
    assert admitted(queued(), trial(Outcome.NO_EVIDENCE), champion=repackaged).evidence.pairs == 120
