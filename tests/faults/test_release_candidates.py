"""Candidates that misbehave as processes: users notice nothing, the old version serves. With a control beside."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from pipelines import ledger
from pipelines.ledger import Outcome, Phase
from tests.faults.release_case import ControllerProcess, ended, let_go
from tests.steps.live import Load
from tests.steps.release_stage import MODEL, Stage

RULES: dict[str, Any] = {"weights": [25], "shadow_seconds": 2, "bake_seconds": 2}
BAD = {Outcome.WORSE, Outcome.UNHEALTHY}


@pytest.mark.parametrize(
    ("habits", "rules", "outcomes"),
    [
        pytest.param({}, {}, {Outcome.PROMOTED}, id="the-control-is-promoted"),
        pytest.param({"is_ready": False}, {"ready_timeout_seconds": 10}, {Outcome.UNHEALTHY}, id="never-ready"),
        pytest.param({"longest_prompt": 500}, {}, {Outcome.WORSE}, id="fails-for-long-prompts"),
        pytest.param({"most_at_once": 1}, {"bake_seconds": 60}, {Outcome.WORSE}, id="slow-under-load"),
        pytest.param({"leak_mib": 1, "memory_mib": 40}, {}, BAD, id="grows-until-its-memory-limit"),
    ],
)
def test_a_candidate_that_misbehaves_goes_back(
    stage: Stage,
    controller: ControllerProcess,
    habits: dict[str, Any],
    rules: dict[str, Any],
    outcomes: set[Outcome],
) -> None:
    """A latency is judged from the 30th look at stable on, so who is slow must stay for longer."""
    first = stage.release(stage.inputs("one", "run-1"))
    with Load(f"{first.endpoint}/v1/completions", clients=8) as load:
        rollout = let_go(stage, stage.inputs("two", "run-2", habits=habits, **{**RULES, **rules}))
        found = ended(stage, rollout)
    state, served = found.state, httpx.get(f"{first.endpoint}/provenance", trust_env=False).headers

    assert state.outcome in outcomes, state
    assert load.failures == []
    assert served["X-Slipway-Version"] == ("two" if state.phase is Phase.PROMOTED else "one")
    assert len(stage.copies()) == 1
    assert ledger.verify_chain(stage.url, MODEL) > 0


def test_what_no_user_asks_for_is_not_found(stage: Stage, controller: ControllerProcess) -> None:
    """The control of long prompts: with short ones, the same candidate is as good as the old version."""
    first = stage.release(stage.inputs("one", "run-1"))
    with Load(f"{first.endpoint}/v1/completions", clients=8, body={"prompt": "short"}):
        found = ended(stage, let_go(stage, stage.inputs("two", "run-2", habits={"longest_prompt": 500}, **RULES)))
    assert found.state.phase is Phase.PROMOTED, found.state
