"""Releases under faults: the controller dies at every write-ahead point, processes are killed, writers compete."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines import ledger
from pipelines.errors import LedgerUnavailable
from pipelines.ledger import Candidate, Outcome, Phase, Rollout
from pipelines.release.audit import replayed
from pipelines.release.lowering import request_rollback
from pipelines.release.ports import FULL_BP
from pipelines.spec.serving import MetricWeights
from pipelines.steps import rollout as rollout_step
from tests.faults.release_case import ControllerProcess, settings_for, supervised_controller
from tests.live_postgres import LivePostgres
from tests.steps.live import Load, wait_for
from tests.steps.release_stage import MODEL, PHASES, Stage, answers, installed
from tests.unit.release.fakes import CONFIG, candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.traffic import Behaviour, Drawn
from tests.unit.release.world import ALL, Moment, World


class Crash(BaseException):
    """The controller's death: nothing after it runs."""


class Recorder:
    """Keeps what a death of the controller would leave, at every point at which it could die."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_points = 0
        self.deaths: list[Moment] = []
        """Those that differ: where nothing was done between two points, it does not matter at which it died."""

        self._world = world
        world.faults.before = world.faults.after = lambda _call: self._keep()
        save = ledger.save

        def watched_save(*arguments: Any, **named: Any) -> Rollout:
            self._keep()
            saved = save(*arguments, **named)
            self._keep()
            return saved

        monkeypatch.setattr(ledger, "save", watched_save)

    def _keep(self) -> None:
        self.num_points += 1
        death = Moment.of(self._world)
        if death not in self.deaths:
            self.deaths.append(death)


RULES = CONFIG.model_copy(
    update={
        "look_seconds": 10.0,
        "shadow_seconds": 10.0,
        "unready_seconds": 15.0,
        "metric_weights": MetricWeights(latency=0.0),
    }
)
"""Two weights; a look every ten seconds of a fake clock. Latency would want more looks than are worth a death each."""


def world_with_two(number: int) -> tuple[World, Rollout]:
    """Return a service with version one in production, and the rollout of version two with all its permits."""
    clock = Clock()
    world = World(new_ledger(clock=clock), traffic=Drawn(seed=1, users_per_second=100.0), clock=clock)
    world.release("one")
    return world, world.open(candidate("two", against="one", config=RULES), f"run-{number}", *ALL)


def go_on_after(death: Moment) -> World:
    """Let a new controller look at the moment of a death; return its world.

    What the dead one had seen, and not written down, is seen again.
    """
    world = death.again()
    world.controller.remove_unknown()
    world.look_on()
    return world


def ended(world: World, rollout: Rollout) -> Rollout:
    """Let time pass until a rollout is over, and a few looks longer; return it as it then is."""
    world.run_out(rollout)
    for _ in range(3):
        world.pass_time(RULES.look_seconds)
    return world.read(rollout)


def check_soundness(world: World, rollout: Rollout) -> None:
    """Check that one chain tells it, that one copy runs, gets all users, and belongs to the champion."""
    assert ledger.verify_chain(world.url, "docs") == len(ledger.events(world.url, "docs"))
    assert len(list(replayed(rollout, ledger.events(world.url, "docs")))) > 0
    assert all(0 <= held.route.split.canary_bp <= FULL_BP for held in world.router.history)
    serving = rollout.candidate if rollout.state.phase is Phase.PROMOTED else rollout.stable
    assert serving is not None
    assert ledger.champion(world.url, "docs") == serving
    assert world.fleet.list() == {serving.copy_name}
    assert world.router.receiver("docs") == serving.copy_name


def counted_once(rollout: Rollout) -> dict[str, Any]:
    """Return what must not depend on how often a look was repeated."""
    return rollout.state.evidence.model_dump(
        include={"log_e", "bets", "full", "totals", "exposures", "pairs", "windows"}
    )


def break_nothing(_world: World, _rollout: Rollout) -> None:
    """Leave the candidate good."""


def break_answers(world: World, rollout: Rollout) -> None:
    """Give the candidate one bad answer in five: found under traffic."""
    assert isinstance(world.traffic, Drawn)
    world.traffic.behaviours[rollout.candidate.copy_name] = Behaviour(error_rate=0.2)


def break_identity(world: World, rollout: Rollout) -> None:
    """Let the candidate answer as somebody else: found when users are on it."""
    world.probe.impostors[rollout.candidate.copy_name] = rollout.candidate.model_copy(update={"tag": "docs:impostor"})


@pytest.mark.parametrize(
    ("break_it", "outcome", "least"),
    [
        pytest.param(break_nothing, Outcome.PROMOTED, 100, id="promotion"),
        pytest.param(break_answers, Outcome.WORSE, 50, id="rollback-as-worse"),
        pytest.param(break_identity, Outcome.UNHEALTHY, 80, id="rollback-at-full-weight", marks=pytest.mark.slow),
    ],
)
def test_the_controller_killed_at_every_point_converges_and_counts_nothing_twice(
    break_it: Callable[[World, Rollout], None], outcome: Outcome, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, rollout = world_with_two(0)
    break_it(world, rollout)
    with monkeypatch.context() as patched:
        recorder = Recorder(world, patched)
        undisturbed = ended(world, rollout)
    assert undisturbed.state.outcome is outcome
    assert recorder.num_points >= least

    for number, death in enumerate(recorder.deaths):
        world = go_on_after(death)
        found = ended(world, rollout)
        assert (found.state.phase, found.state.outcome) == (undisturbed.state.phase, outcome), f"death {number}"
        assert counted_once(found) == counted_once(undisturbed), f"death {number}"
        check_soundness(world, found)


def test_without_reconciling_a_crash_would_strand_the_rollout(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control run: a death right after the new weight was written down leaves users where they were."""
    world = World(ledger_url)
    world.release("one")
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    saves = itertools.count(1)
    save = ledger.save

    def dies_after_promoting(*arguments: Any, **named: Any) -> Rollout:
        saved = save(*arguments, **named)
        if saved.state.phase is Phase.PROMOTING and next(saves) == 1:
            raise Crash
        return saved

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "save", dies_after_promoting)
        with pytest.raises(Crash):
            world.settle()
    assert world.read(second).state.canary_bp == FULL_BP
    assert world.router.routes["docs"].route.split.canary_bp < FULL_BP


def test_tasks_that_open_and_permit_at_the_same_moment_leave_one_rollout_and_one_chain(ledger_url: str) -> None:
    def task(number: int) -> int:
        rollout = ledger.open_rollout(ledger_url, candidate("one"), run_id=f"run-{number % 2}")
        for transition in ALL:
            ledger.insert_permit(ledger_url, "docs", rollout.id, transition)
        return rollout.id

    with ThreadPoolExecutor(max_workers=8) as pool:
        ids = set(pool.map(task, range(40)))
    assert len(ids) == 2
    assert ledger.verify_chain(ledger_url, "docs") == 2 * (1 + len(ALL))


def is_sound(world: World, service: str, serving: Candidate) -> bool:
    """Check the chain; say whether one copy runs, gets all users, and belongs to the right champion."""
    ledger.verify_chain(world.url, service)
    champion = ledger.champion(world.url, service)
    assert champion is not None
    return (
        champion.bento == serving.bento
        and world.fleet.list(service) == {champion.copy_name}
        and world.router.receiver(service) == champion.copy_name
    )


def test_a_controller_and_a_person_who_write_at_the_same_moment_never_both_win(ledger_url: str) -> None:
    for number in range(10):
        service = f"race-{number}"
        world = World(ledger_url)
        first = world.release("one", service=service)
        second = world.open(candidate("two", against="one", service=service), "run-2", *ALL)
        person = threading.Thread(
            target=request_rollback,
            args=(ledger_url, second.id, Outcome.ABORTED, "a person"),
            kwargs={"fleet": world.fleet, "router": world.router},
        )
        person.start()
        world.settle(service)
        person.join()
        world.settle(service)
        world.settle(service)

        ended = world.read(second)
        assert ended.state.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)
        winner = ended if ended.state.phase is Phase.PROMOTED else first
        assert is_sound(world, service, winner.candidate)


def test_a_second_controller_stands_by_until_the_first_is_gone(ledger_url: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with ledger.controller_lock(ledger_url):
            entered.set()
            leave.wait(30)

    with ledger.controller_lock(ledger_url) as still_locked:
        thread = threading.Thread(target=second)
        thread.start()
        still_locked()
        assert not entered.wait(0.5), "two controllers at once"
    assert entered.wait(30)
    leave.set()
    thread.join()


def kill_in_every_phase(stage: Stage, controller: ControllerProcess, waiting: rollout_step.Waiting) -> set[Phase]:
    """Kill the controller each time that the rollout is seen in another phase; return those phases."""
    seen: set[Phase] = set()

    def is_over() -> bool:
        state = ledger.read_rollout(stage.url, waiting.rollout).state
        if state.phase not in seen and not state.is_final:
            seen.add(state.phase)
            controller.kill()
        return state.is_final

    wait_for(is_over, "the end of the rollout", seconds=400)
    return seen


def test_a_real_controller_killed_in_every_phase_replaces_the_version_without_a_failed_request(
    stage: Stage, controller: ControllerProcess
) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    inputs = stage.inputs("two", "run-2")
    waiting = rollout_step.begin("stage", inputs, stage.settings)
    for transition in PHASES[1:]:
        ledger.insert_permit(stage.url, MODEL, waiting.rollout, transition)
    with Load(f"{first.endpoint}/v1/completions") as load:
        seen = kill_in_every_phase(stage, controller, waiting)
        wait_for(lambda: load.by("two") > 20, "answers of the second version")

    assert load.failures == []
    assert ledger.read_rollout(stage.url, waiting.rollout).state.phase is Phase.PROMOTED
    assert seen >= {Phase.QUEUED, Phase.STAGE}
    assert controller.starts > len(seen)
    assert ledger.verify_chain(stage.url, MODEL) > 0


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[LivePostgres]:
    """Return a server that no other test uses."""
    server = LivePostgres(tmp_path / "postgres")
    yield server
    server.remove()


def test_postgres_killed_in_a_release_is_a_pause(own_postgres: LivePostgres, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, own_postgres.create_database("ledger"))
    ledger.migrate(settings.ledger_url())
    with installed(settings, tmp_path / "scratch") as stage, supervised_controller(stage):
        first = stage.release(stage.inputs("one", "run-1"))
        inputs = stage.inputs("two", "run-2")
        rollout_step.wait(rollout_step.begin("stage", inputs, settings), settings)
        with Load(f"{first.endpoint}/v1/completions") as load:
            own_postgres.kill()
            with pytest.raises(LedgerUnavailable, match="no answer from"):
                rollout_step.begin("smoke", inputs, settings)
            own_postgres.start()
            for phase in PHASES[1:]:
                rollout_step.wait(rollout_step.begin(phase, inputs, settings), settings)

        assert load.failures == []
        assert ledger.verify_chain(stage.url, MODEL) > 0


def test_envoy_killed_in_a_release_comes_back_with_the_weights_and_the_release_goes_on(
    stage: Stage, controller: ControllerProcess
) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    inputs = stage.inputs("two", "run-2")
    rollout_step.wait(rollout_step.begin("stage", inputs, stage.settings), stage.settings)
    stage.envoy.kill()
    waiting = rollout_step.begin("smoke", inputs, stage.settings)
    stage.envoy.start()
    wait_for(lambda: answers(first.endpoint), "the old version answers")

    rollout_step.wait(waiting, stage.settings)
    for phase in PHASES[2:]:
        rollout_step.wait(rollout_step.begin(phase, inputs, stage.settings), stage.settings)
