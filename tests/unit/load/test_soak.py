"""The judge of a soak: whatever did not go as it should is said, and the plan is what the bar asks for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.errors import BadInput
from pipelines.ledger import Outcome, Phase
from pipelines.spec import load_spec
from tests.load.candidates import Candidate, changed, repackaged, slow, under_trained
from tests.load.endings import Ending, Kind, table, total
from tests.load.releases import RULES, SPEC
from tests.load.soak import PLAN, plan_of
from tests.local_stack import TINY_SPEC

REASONS = {
    Kind.SAME: "replaced version 1",
    Kind.BETTER: "replaced version 1",
    Kind.ERRORS: "E = 141 of 100, most of it from errors (canary/shadow 14 bad of 72)",
    Kind.SLOW: "E = 141 of 100, most of it from headers_p90 (canary/user 0 bad of 72)",
    Kind.WRONG_ANSWERS: "E = 141 of 100, most of it from quality (canary/user 0 bad of 72)",
    Kind.DIES: "the new copy has not been ready for 11 s",
}


def ended(kind: Kind) -> Ending:
    """Return the ending that a kind should have."""
    return Ending(
        kind=kind,
        phase=Phase.PROMOTED if kind.is_good else Phase.ROLLED_BACK,
        outcome=Outcome.PROMOTED if kind.is_good else Outcome.WORSE,
        reason=REASONS[kind],
        seconds=40.0,
        weight=100.0 if kind.is_good else 25.0,
        num_requests=800,
        num_by_candidate=300,
        failed={},
        excused=0,
        served="version 3, digest 7e37bf613fab",
        is_served_right=True,
    )


def test_the_plan_is_12_good_ones_of_which_5_are_a_a_and_two_of_each_bad_kind() -> None:
    counted = Counter(PLAN)
    assert sum(count for kind, count in counted.items() if kind.is_good) == 12
    assert counted[Kind.SAME] == 5
    assert [counted[kind] for kind in Kind if not kind.is_good] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("only", "count", "expected"),
    [
        pytest.param("", None, PLAN, id="all"),
        pytest.param("", 2, PLAN[:2], id="the-first-two"),
        pytest.param("dies, errors", None, (Kind.ERRORS, Kind.DIES, Kind.ERRORS, Kind.DIES), id="some-in-their-order"),
        pytest.param("dies", 1, (Kind.DIES,), id="one-of-a-kind"),
    ],
)
def test_a_part_of_the_plan_can_be_run(only: str, count: int | None, expected: tuple[Kind, ...]) -> None:
    assert plan_of(only, count) == expected


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="no kind eror; there are a-a, better, errors"):
        plan_of("a-a,eror", None)


@pytest.mark.parametrize("kind", Kind)
def test_a_rollout_that_ends_as_it_should_has_no_problem(kind: Kind) -> None:
    assert ended(kind).problems() == []


@pytest.mark.parametrize(
    ("ending", "problem"),
    [
        pytest.param(
            replace(ended(Kind.SAME), phase=Phase.ROLLED_BACK, reason="E = 141"),
            "rolled_back instead of promoted: E = 141",
            id="a-false-alarm",
        ),
        pytest.param(
            replace(ended(Kind.SLOW), phase=Phase.PROMOTED),
            "promoted instead of rolled_back",
            id="a-bad-one-passes",
        ),
        pytest.param(
            replace(ended(Kind.DIES), phase=Phase.ROLLBACK_FAILED),
            "rollback_failed instead",
            id="a-way-back-that-failed",
        ),
        pytest.param(
            replace(ended(Kind.SLOW), reason="no verdict within 300 s"), "for another reason", id="found-by-accident"
        ),
        pytest.param(
            replace(ended(Kind.BETTER), failed={"none": 2, "abc": 1}, excused=2),
            r"3 requests failed \(version abc: 1, version none: 2\), the candidate explains 2",
            id="more-failures-than-the-candidate-had",
        ),
        pytest.param(replace(ended(Kind.BETTER), num_requests=0), "no user sent a request", id="no-users"),
        pytest.param(
            replace(ended(Kind.ERRORS), is_served_right=False),
            "version 3, digest 7e37bf613fab serves",
            id="wrong-version",
        ),
    ],
)
def test_whatever_went_wrong_is_said(ending: Ending, problem: str) -> None:
    (said,) = ending.problems()
    assert re.search(problem, said)


def test_failures_that_the_candidate_explains_are_no_problem() -> None:
    assert replace(ended(Kind.DIES), failed={"none": 2}, excused=2).problems() == []


def test_the_table_has_a_line_for_each_and_says_under_it_what_is_wrong() -> None:
    bad = replace(ended(Kind.ERRORS), is_served_right=False)
    lines = table([ended(Kind.SAME), bad, bad]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "wrong:", "3", "wrong:"]
    assert lines[1].split()[1:4] == ["a-a", "promoted", "promoted"]


def test_the_total_counts_good_bad_and_failed() -> None:
    endings = [ended(Kind.SAME), replace(ended(Kind.DIES), phase=Phase.PROMOTED, failed={"none": 1})]
    assert total(endings) == (
        "1 of 1 good ones promoted, 0 of 1 bad ones rolled back, 1 of 1600 users' requests failed"
    )


@pytest.fixture
def made(tmp_path: Path) -> Candidate:
    """Return a candidate with a spec like a soak's."""
    (tmp_path / "tiny.yaml").write_text(TINY_SPEC.format(corpus="corpus.jsonl"))
    spec = changed(tmp_path / "tiny.yaml", tmp_path, SPEC | {"rollout": RULES}, name="soak")
    return Candidate(spec, seed=1, max_steps=60)


def test_the_soaks_own_spec_is_valid(made: Candidate) -> None:
    spec = load_spec(made.spec)
    assert (spec.name, spec.rollout.weights, spec.architecture.hidden_size) == ("soak", (25, 50), 16)


def test_a_repackaged_candidate_differs_in_a_setting_of_the_service_only(made: Candidate, tmp_path: Path) -> None:
    (folder := tmp_path / "again").mkdir()
    again = repackaged(made, folder, max_queue=65)
    before, after = (yaml.safe_load(each.spec.read_text()) for each in (made, again))
    assert after.pop("service") == {**before.pop("service"), "max_queue": 65}
    assert (again.spec.name, again.seed, again.max_steps, after) == (made.spec.name, 1, 60, before)


def test_an_under_trained_candidate_has_a_loosened_gate(made: Candidate, tmp_path: Path) -> None:
    (folder := tmp_path / "under").mkdir()
    worse = under_trained(made, folder, seed=4, max_steps=6)
    assert (worse.seed, worse.max_steps) == (4, 6)
    assert load_spec(worse.spec).evaluation.noninferiority_margin == 100
    assert load_spec(made.spec).evaluation.noninferiority_margin == 0.05


def test_a_slow_candidate_waits_in_a_tree_of_its_own(made: Candidate, tmp_path: Path) -> None:
    (folder := tmp_path / "slow").mkdir()
    tree = slow(made, folder).tree
    app = (tree / "bentos" / "text_generation" / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert app.count("await asyncio.sleep(0.2)") == 1
    assert "asyncio.sleep" not in (made.tree / "bentos" / "text_generation" / "app.py").read_text()
