"""The course of a rollout: its transitions in order, and which of them are behind it."""

from __future__ import annotations

import pytest

from pipelines.ledger import Phase, Rollout
from pipelines.release.course import approval_before, patience, required, transitions
from pipelines.release.passing import is_passed
from pipelines.release.ports import FULL_BP
from pipelines.spec.serving import ApprovalConfig
from tests.unit.release.states import RULES, rollout

ASKING = RULES.model_copy(update={"approval": ApprovalConfig(before_users=True, before_promotion=True)})
ORDER = transitions(RULES)
DONE = {"is_done": True}


def test_the_weights_of_the_spec_are_transitions_between_mirror_and_promotion() -> None:
    assert ORDER == (
        "stage", "smoke", "warmup", "shadow", "advance_005", "advance_025", "advance_050", "promote", "bake",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("of", "last"),
    [
        pytest.param(rollout(Phase.QUEUED), None, id="queued"),
        pytest.param(rollout(Phase.STAGE), None, id="staging"),
        pytest.param(rollout(Phase.STAGE, **DONE), "stage", id="staged"),
        pytest.param(rollout(Phase.SMOKE), "stage", id="smoking"),
        pytest.param(rollout(Phase.SMOKE, **DONE), "smoke", id="smoked"),
        pytest.param(rollout(Phase.WARMUP), "smoke", id="warming-up"),
        pytest.param(rollout(Phase.WARMUP, **DONE), "warmup", id="warm"),
        pytest.param(rollout(Phase.WARMUP, **DONE, stable=None), "advance_050", id="first-release-skips-the-weights"),
        pytest.param(rollout(Phase.WARMUP, **DONE, is_direct=True), "advance_050", id="direct-return-skips-them-too"),
        pytest.param(rollout(Phase.SHADOW), "warmup", id="mirroring"),
        pytest.param(rollout(Phase.SHADOW, **DONE), "shadow", id="mirrored"),
        pytest.param(rollout(Phase.STEP), "shadow", id="at-5"),
        pytest.param(rollout(Phase.STEP, **DONE), "advance_005", id="done-with-5"),
        pytest.param(rollout(Phase.STEP, step=1), "advance_005", id="at-25"),
        pytest.param(rollout(Phase.STEP, step=2, **DONE), "advance_050", id="done-with-50"),
        pytest.param(rollout(Phase.PROMOTING, canary_bp=FULL_BP), "advance_050", id="promoting"),
        pytest.param(rollout(Phase.BAKE_FULL), "promote", id="baking"),
        pytest.param(rollout(Phase.BAKE_FULL, **DONE), "promote", id="baked-but-not-over"),
        pytest.param(rollout(Phase.DRAIN_OLD, **DONE), "promote", id="draining"),
        pytest.param(rollout(Phase.PROMOTED), "bake", id="promoted"),
        pytest.param(rollout(Phase.NOT_NEEDED), "bake", id="not-needed"),
        pytest.param(rollout(Phase.ROLLING_BACK), None, id="rolling-back"),
        pytest.param(rollout(Phase.ROLLED_BACK), None, id="rolled-back"),
        pytest.param(rollout(Phase.ROLLBACK_FAILED), None, id="rollback-failed"),
    ],
)
def test_which_transitions_are_behind_a_rollout(of: Rollout, last: str | None) -> None:
    expected = ORDER[: ORDER.index(last) + 1] if last else ()
    assert tuple(transition for transition in ORDER if is_passed(of, transition)) == expected


def test_approvals_come_before_the_first_users_and_before_promotion_only_where_the_spec_asks() -> None:
    asked = {transition: approval_before(ASKING, transition) for transition in ORDER}
    assert {key: str(value) for key, value in asked.items() if value} == {
        "advance_005": "approve_users",
        "promote": "approve_promotion",
    }
    assert not any(approval_before(RULES, transition) for transition in ORDER)


@pytest.mark.parametrize(
    ("of", "needed"),
    [
        pytest.param(rollout(Phase.STEP, config=ASKING), {"promote", "approve_promotion"}, id="compared"),
        pytest.param(
            rollout(Phase.WARMUP, config=ASKING, stable=None),
            {"promote", "approve_users", "approve_promotion"},
            id="a-first-releases-promotion-is-its-first-user-traffic",
        ),
        pytest.param(rollout(Phase.WARMUP, config=ASKING, is_direct=True), {"promote"}, id="ordered-by-a-person"),
        pytest.param(rollout(Phase.STEP), {"promote"}, id="nobody-is-asked"),
    ],
)
def test_what_promotion_needs(of: Rollout, needed: set[str]) -> None:
    assert required(of, "promote") == needed
    assert patience(of, "promote") == 600 + 86_400 * (len(needed) - 1)
