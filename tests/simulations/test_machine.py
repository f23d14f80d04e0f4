"""Any history at all: what holds of every rollout, whatever is seen, ordered, broken or killed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipelines import ledger
from pipelines.ledger import Outcome, Phase, Rollout, RolloutState, Version
from pipelines.release.course import transitions
from pipelines.release.evidence import standing
from pipelines.release.lowering import request_rollback
from pipelines.release.ports import FULL_BP, SmokeReport
from pipelines.release.rollout import Seen, advance, champion_after, roll_back
from tests.unit.release.fakes import CONFIG, candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.states import NEW, NOW, OLD, RULES, reading, rollout, seen, served, users
from tests.unit.release.world import ALL, World

RISING = (Phase.STEP, Phase.PROMOTING)


def ways_back(of: Rollout) -> bool:
    """Say whether a rollback asked for now ends with stable in charge."""
    back = replace(of, state=roll_back(of, Outcome.ABORTED, "asked", NOW))
    for look in (seen(), seen(in_flight=0), seen(served=served(OLD))):
        back = replace(back, state=advance(back, look))
    return back.state.phase in (Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED)


@dataclass(frozen=True)
class Sight:
    """What one look may find."""

    seconds: float
    ready: frozenset[str]
    is_routed: bool
    users: int
    bad_rate: float
    answers: Version | None
    golden: bool | None
    hold: str
    is_blind: bool

    def seen(self, of: Rollout, permits: frozenset[str], now: float) -> Seen:
        """Return the look at a rollout."""
        canary = round(self.users * of.state.canary_bp / FULL_BP)
        counted = users(canary, round(canary * self.bad_rate), self.users - canary, 0)
        is_ready = NEW.copy_name in self.ready
        found = reading(now, cursor=str(now), failures=counted, invalid=counted, hold=self.hold, is_ready=is_ready)
        return seen(
            *permits,
            now=now,
            ready=self.ready,
            is_routed=self.is_routed,
            is_warm=self.is_routed,
            in_flight=0,
            smoke=None if self.golden is None else SmokeReport(passed=self.golden, evidence="golden"),
            served=None if self.answers is None else served(self.answers),
            reading=None if self.is_blind else found,
        )


BOTH = frozenset({OLD.copy_name, NEW.copy_name})
SIGHTS = st.builds(
    Sight,
    seconds=st.sampled_from([0.0, 10.0, 70.0, 700.0]),
    ready=st.sampled_from([BOTH] * 5 + [frozenset({OLD.copy_name}), frozenset({NEW.copy_name}), frozenset()]),
    is_routed=st.sampled_from([True] * 4 + [False]),
    users=st.sampled_from([0, 100, 1000]),
    bad_rate=st.sampled_from([0.0, 0.0, 0.001, 0.2]),
    answers=st.sampled_from([NEW, NEW, OLD, None]),
    golden=st.sampled_from([True, True, True, False, None]),
    hold=st.sampled_from(["", "", "gap"]),
    is_blind=st.sampled_from([False] * 5 + [True]),
)


class AnyLooks(RuleBasedStateMachine):
    """The pure state machine under looks of every kind."""

    permits: frozenset[str] = frozenset()
    now = NOW

    @initialize(is_first=st.booleans(), is_direct=st.booleans())
    def begin(self, is_first: bool, is_direct: bool) -> None:
        self.rollout = rollout(Phase.STAGE, stable=None if is_first else OLD, is_direct=is_direct, deadline=NOW + 180)
        self.champion = self.rollout.stable

    @rule(transition=st.sampled_from(transitions(RULES)))
    def permit(self, transition: str) -> None:
        self.permits |= {transition}

    @rule(sight=SIGHTS)
    def look(self, sight: Sight) -> None:
        self.now += sight.seconds
        self.move(advance(self.rollout, sight.seen(self.rollout, self.permits, self.now)))

    @rule()
    @precondition(lambda self: self.rollout.state.phase in RISING)
    def abort(self) -> None:
        self.move(roll_back(self.rollout, Outcome.ABORTED, "a person", self.now))

    def move(self, after: RolloutState) -> None:
        before = self.rollout
        assert after.generation >= before.state.generation
        if after.canary_bp != before.state.canary_bp:
            assert after.generation > before.state.generation, "a new weight is fenced"
        if after.canary_bp > before.state.canary_bp:
            self.check_rise(before, after)
        self.champion = champion_after(before, after) or self.champion
        self.rollout = replace(before, state=after)

    def check_rise(self, before: Rollout, after: RolloutState) -> None:
        needed = f"advance_{after.canary_bp // 100:03d}" if after.phase is Phase.STEP else "promote"
        assert needed in self.permits
        if before.is_compared and before.state.phase is Phase.STEP:
            found = standing(after.evidence, before.config)
            assert found.log_evidence >= -math.log(before.config.beta)
            assert found.log_e < found.log_limit
            assert found.exposures >= before.config.min_user_exposures

    @invariant()
    def weights_are_weights(self) -> None:
        state = self.rollout.state
        assert 0 <= state.canary_bp <= FULL_BP
        assert state.confirmed_bp in (None, state.canary_bp)
        if state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED):
            assert state.canary_bp == 0
            assert state.outcome not in (Outcome.NONE, Outcome.PROMOTED)

    @invariant()
    def the_champion_is_who_serves(self) -> None:
        is_new = self.rollout.state.phase in (Phase.BAKE_FULL, Phase.DRAIN_OLD, Phase.PROMOTED)
        assert self.champion == (NEW if is_new else self.rollout.stable)

    @invariant()
    def there_is_always_a_way_back(self) -> None:
        assert self.rollout.state.is_final or ways_back(self.rollout)


class Killed(BaseException):
    """The controller's death."""


class AnyFaults(RuleBasedStateMachine):
    """The real controller, killed and hindered at any call, with a ledger of its own."""

    @initialize()
    def begin(self) -> None:
        clock = Clock()
        self.world = World(new_ledger(clock=clock), clock=clock)
        self.first = self.world.release("one")
        self.begun = len(self.world.router.history)
        self.rollout = self.world.open(candidate("two", against="one"), "run-2")

    @rule(transition=st.sampled_from(ALL))
    def permit(self, transition: str) -> None:
        if not self.world.read(self.rollout).state.is_final:
            ledger.insert_permit(self.world.url, "docs", self.rollout.id, transition)

    @rule()
    def permit_all(self) -> None:
        for transition in ALL:
            self.permit(transition)

    @rule(looks=st.integers(1, 8))
    def look(self, looks: int) -> None:
        for _ in range(looks):
            self.world.clock.tick(0.01)
            self.world.controller.look("docs")

    @rule(after=st.booleans(), calls=st.integers(1, 12))
    def kill(self, after: bool, calls: int) -> None:
        left = iter(range(calls, -10_000, -1))

        def die(_call: str) -> None:
            if next(left) == 1:
                raise Killed

        setattr(self.world.faults, "after" if after else "before", die)
        with contextlib.suppress(Killed):
            self.look(4)
        self.world.faults.before = self.world.faults.after = lambda _call: None
        self.world.controller = replace(self.world.controller)

    @rule(who=st.sampled_from(["one", "two"]), is_slow=st.booleans())
    def become_unready(self, who: str, is_slow: bool) -> None:
        copy = (self.first if who == "one" else self.rollout).candidate.copy_name
        (self.world.fleet.slow.add if is_slow else self.world.fleet.slow.discard)(copy)

    @rule()
    def abort(self) -> None:
        request_rollback(
            self.world.url, self.rollout.id, Outcome.ABORTED, "x", fleet=self.world.fleet, router=self.world.router
        )

    @invariant()
    def routes_are_sound(self) -> None:
        if not hasattr(self, "world"):
            return
        for held in self.world.router.history[self.begun :]:
            split = held.route.split
            assert 0 <= split.canary_bp <= FULL_BP
            assert held.route.canary is not None or (split.canary_bp, split.mirror_bp) == (0, 0)
            assert held.route.stable is not None, "somebody has the other users"
        generations = [held.generation for held in self.world.router.history]
        assert generations == sorted(generations)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.fleet.slow.clear()
        self.permit_all()
        self.world.settle()
        ended = self.world.read(self.rollout)
        assert ended.state.is_final, ended.state
        serving = ended.candidate if ended.state.phase is Phase.PROMOTED else self.first.candidate
        assert self.world.router.receiver("docs") == serving.copy_name
        assert self.world.fleet.list() == {serving.copy_name}
        assert ledger.champion(self.world.url, "docs") == serving
        assert ledger.verify_chain(self.world.url, "docs") == len(ledger.events(self.world.url, "docs"))
        if ended.state.phase is Phase.PROMOTED:
            assert standing(ended.state.evidence, CONFIG).log_evidence >= -math.log(CONFIG.beta)


def check(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Stage.generate, Stage.shrink),
        ),
    )


def test_no_history_of_looks_leads_to_a_forbidden_state() -> None:
    check(AnyLooks, examples=40, steps=40)


def test_no_history_of_faults_strands_a_rollout() -> None:
    check(AnyFaults, examples=5, steps=8)


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "examples", "steps"), [(AnyLooks, 2000, 60), (AnyFaults, 300, 20)])
def test_many_histories(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    check(machine, examples, steps)
