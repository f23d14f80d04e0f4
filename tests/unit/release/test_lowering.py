"""What anyone may do: ask for a rollback, and take users from a candidate when the controller is dead."""

from __future__ import annotations

import functools

import pytest

from pipelines import ledger
from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.release import lowering
from pipelines.release.lowering import ControllerSilent, check_controller, request_rollback
from pipelines.release.ports import FULL_BP, RouterUnavailable
from tests.unit.release.fakes import candidate
from tests.unit.release.world import ALL, Moment, World, world_with

LONG_AGO = 1000.0


@functools.cache
def promoting() -> Moment:
    """Bring a second version to full weight, with its answer to users still missing."""
    world = world_with("one")
    opened = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.faults.after = lambda call: (
        world.fleet.slow.add(opened.candidate.copy_name) if is_switch(world, call) else None
    )
    world.settle()
    assert world.read(opened).state.phase is Phase.PROMOTING
    assert world.router.receiver("docs") == opened.candidate.copy_name
    return Moment.of(world)


@pytest.fixture
def world() -> World:
    """Return a world whose second version is at full weight."""
    return promoting().again()


@pytest.fixture
def rollout(world: World) -> Rollout:
    """Return the rollout of the second version."""
    (latest,) = ledger.list_rollouts(world.url, "docs", 1)
    return latest


def is_switch(world: World, call: str) -> bool:
    return call.startswith("apply") and world.router.routes["docs"].route.split.canary_bp == FULL_BP


def check(world: World, rollout: Rollout) -> None:
    since = ledger.current_time(world.url) - LONG_AGO
    check_controller(world.url, rollout, since, fleet=world.fleet, router=world.router)


def test_a_living_controller_is_left_to_decide(world: World, rollout: Rollout) -> None:
    ledger.beat(world.url)
    check(world, rollout)
    assert world.read(rollout) == rollout


def test_a_wait_that_has_just_begun_gives_a_restarted_controller_its_time(world: World, rollout: Rollout) -> None:
    now = ledger.current_time(world.url)
    check_controller(world.url, rollout, now, fleet=world.fleet, router=world.router)
    assert world.read(rollout) == rollout


def test_a_dead_controllers_users_go_back_to_the_old_version(world: World, rollout: Rollout) -> None:
    with pytest.raises(ControllerSilent, match="silent for 1000 s; users of docs were sent back to version 1"):
        check(world, rollout)

    lowered = world.read(rollout)
    assert (lowered.state.phase, lowered.state.outcome) == (Phase.ROLLING_BACK, Outcome.DEAD_MAN)
    assert rollout.stable is not None
    assert world.router.receiver("docs") == rollout.stable.copy_name
    assert world.router.routes["docs"].generation == lowered.state.generation

    world.settle()  # the controller is back
    assert world.read(rollout).state.phase is Phase.ROLLED_BACK
    assert ledger.verify_chain(world.url, "docs") > 0


def test_users_stay_where_they_are_when_the_old_version_is_down_too(world: World, rollout: Rollout) -> None:
    assert rollout.stable is not None
    world.fleet.slow.add(rollout.stable.copy_name)
    with pytest.raises(ControllerSilent, match=r"silent for 1000 s; start it"):
        check(world, rollout)

    assert world.read(rollout).state.phase is Phase.PROMOTING
    assert world.router.receiver("docs") == rollout.candidate.copy_name


def test_a_controller_that_wakes_up_late_cannot_raise_the_weight_again(world: World, rollout: Rollout) -> None:
    with pytest.raises(ControllerSilent):
        check(world, rollout)

    held = world.router.routes["docs"]
    with pytest.raises(lowering.SlipwayError, match="is older than"):
        world.router.apply(held.route, rollout.state.generation)
    with pytest.raises(ledger.StaleRollout):
        ledger.save(world.url, rollout, rollout.state, "held")


def test_a_rollback_is_written_down_although_the_router_is_away(
    world: World, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_service: str) -> None:
        raise RouterUnavailable("Envoy does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(world.router, "observe", away)
        request_rollback(
            world.url, rollout.id, Outcome.ABORTED, "marked as failed", fleet=world.fleet, router=world.router
        )
    assert world.read(rollout).state.phase is Phase.ROLLING_BACK
    world.settle()
    assert world.read(rollout).state.phase is Phase.ROLLED_BACK


def test_a_rollback_in_the_drain_brings_the_old_champion_back() -> None:
    world = world_with("one")
    first = world.champion
    world.router.in_flight[first.copy_name] = 1
    second = world.release("two", against="one")
    assert world.champion == second.candidate

    request_rollback(world.url, second.id, Outcome.ABORTED, "a person", fleet=world.fleet, router=world.router)
    world.settle()
    assert world.read(second).state.phase is Phase.ROLLED_BACK
    assert world.champion == first
    assert world.fleet.list() == {first.copy_name}


def test_asking_twice_is_asking_once(world: World, rollout: Rollout) -> None:
    for _ in range(2):
        request_rollback(world.url, rollout.id, Outcome.ABORTED, "twice", fleet=world.fleet, router=world.router)
    assert world.kinds().count("rolling_back") == 1
