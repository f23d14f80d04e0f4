"""Releases from opening to end, told to a controller over fake ports and a real ledger."""

from __future__ import annotations

import pytest

from pipelines import ledger
from pipelines.ledger import Outcome, Phase
from tests.unit.release.fakes import candidate
from tests.unit.release.world import ALL, World


def test_a_first_release_goes_from_stage_over_smoke_to_promoted(world: World) -> None:
    opened = world.open(candidate("one"), "run-1")

    world.settle()
    staged = world.read(opened)
    assert (staged.state.phase, staged.state.is_done) == (Phase.STAGE, True)
    assert world.router.receiver("docs") is None, "no user reaches a version that is only staged"

    ledger.insert_permit(world.url, "docs", opened.id, "smoke")
    world.settle()
    assert world.read(opened).state.phase is Phase.SMOKE

    ledger.insert_permit(world.url, "docs", opened.id, "promote")
    world.settle()
    ended = world.read(opened)
    assert ended.state.phase is Phase.PROMOTED
    assert ended.state.detail == "first release of the service"
    assert ledger.champion(world.url, "docs") == ended.candidate
    world.settle()
    assert world.router.receiver("docs") == ended.candidate.copy_name
    assert world.kinds() == [
        "opened", "stage", "port_claimed", "stage_done", "permitted", "smoke", "smoke_done", "permitted", "promoting",
        "confirmed", "promoted",
    ]  # fmt: skip
    assert ledger.verify_chain(world.url, "docs") == len(ledger.events(world.url, "docs"))


def test_a_second_version_replaces_the_first_and_the_old_copy_is_stopped(world: World) -> None:
    first = world.release("one")
    second = world.release("two", against="one")

    assert second.state.phase is Phase.PROMOTED
    assert second.stable == first.candidate
    assert world.fleet.list() == {second.candidate.copy_name}
    assert world.fleet.stopped == [first.candidate.copy_name]
    assert world.router.receiver("docs") == second.candidate.copy_name


def test_the_old_copy_is_stopped_only_after_its_last_answer(world: World) -> None:
    first = world.release("one")
    world.router.in_flight[first.candidate.copy_name] = 3
    second = world.release("two", against="one")

    assert second.state.phase is Phase.DRAIN_OLD
    assert first.candidate.copy_name in world.fleet.list()

    world.router.in_flight.clear()
    world.settle()
    assert world.read(second).state.phase is Phase.PROMOTED
    assert world.fleet.list() == {second.candidate.copy_name}


def test_weights_that_serve_already_need_no_release(world: World) -> None:
    world.release("one")
    again = world.release("one", run_id="run-again")

    assert (again.state.phase, again.state.outcome) == (Phase.NOT_NEEDED, Outcome.ALREADY_SERVING)
    assert len(world.fleet.copies) == 1


def test_weights_that_were_replaced_are_released_again_only_by_force(world: World) -> None:
    world.release("one")
    world.release("two", against="one")

    again = world.release("one", run_id="run-again")
    assert (again.state.phase, again.state.outcome) == (Phase.NOT_NEEDED, Outcome.SUPERSEDED)

    forced = world.open(candidate("one"), "run-forced", *ALL, forced=True)
    world.settle()
    assert world.read(forced).state.phase is Phase.PROMOTED


def test_a_champion_that_changed_since_evaluate_refuses_the_candidate(world: World) -> None:
    world.release("one")
    late = world.release("two", against=None)

    assert (late.state.phase, late.state.outcome) == (Phase.ROLLED_BACK, Outcome.REFUSED)
    assert late.state.detail == "the champion changed since evaluate: now version 1; clear from evaluate"


def test_wrong_golden_answers_are_refused_before_any_user(world: World) -> None:
    first = world.release("one")
    wrong = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.wrong.add(wrong.candidate.copy_name)
    world.settle()

    ended = world.read(wrong)
    assert (ended.state.phase, ended.state.outcome) == (Phase.ROLLED_BACK, Outcome.REFUSED)
    assert "expected 'a', got 'b'" in ended.state.detail
    assert all(held.route.split.canary_bp == 0 for held in world.router.history[-4:])
    assert world.fleet.list() == {first.candidate.copy_name}
    assert ledger.champion(world.url, "docs") == first.candidate


def test_an_endpoint_that_answers_as_somebody_else_is_rolled_back(world: World) -> None:
    first = world.release("one")
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.impostors[second.candidate.copy_name] = first.candidate
    world.settle()

    ended = world.read(second)
    assert (ended.state.phase, ended.state.outcome) == (Phase.ROLLED_BACK, Outcome.UNHEALTHY)
    assert "the endpoint answers as version one" in ended.state.detail
    assert world.router.receiver("docs") == first.candidate.copy_name


def test_a_rejected_route_holds_the_rollout_with_the_routers_reason(world: World) -> None:
    world.router.rejection = "listener docs: cannot bind"
    opened = world.open(candidate("one"), "run-1", *ALL)
    world.settle()

    assert world.read(opened).state.hold_reason == "the new copy is not ready: listener docs: cannot bind"
    world.router.rejection = ""
    world.settle()
    assert world.read(opened).state.phase is Phase.PROMOTED


def test_two_rollouts_of_one_service_go_one_after_the_other(world: World) -> None:
    first = world.open(candidate("one"), "run-1")
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.settle()
    assert [world.read(rollout).state.phase for rollout in (first, second)] == [Phase.STAGE, Phase.QUEUED]

    for transition in ALL:
        ledger.insert_permit(world.url, "docs", first.id, transition)
    world.settle()
    assert [world.read(rollout).state.phase for rollout in (first, second)] == [Phase.PROMOTED, Phase.PROMOTED]
    assert ledger.champion(world.url, "docs") == second.candidate


def test_users_are_never_moved_to_a_copy_that_is_not_ready(world: World) -> None:
    first = world.release("one")
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.impostors[second.candidate.copy_name] = first.candidate  # forces a rollback
    world.fleet.slow.add(first.candidate.copy_name)  # while stable is down
    world.settle()

    held = world.read(second)
    assert held.state.phase is Phase.ROLLING_BACK
    assert held.state.hold_reason == "stable is not ready to take the traffic back"
    assert world.router.receiver("docs") == second.candidate.copy_name

    world.fleet.slow.clear()
    world.settle()
    assert world.read(second).state.phase is Phase.ROLLED_BACK
    assert world.router.receiver("docs") == first.candidate.copy_name


def test_copies_that_nobody_needs_are_removed_and_the_champion_is_brought_back(world: World) -> None:
    first = world.release("one")
    stray = first.candidate.model_copy(update={"bento": candidate("stray").bento})
    unknown = first.candidate.model_copy(update={"service": "gone"})
    world.fleet.copies = {stray.copy_name: stray, unknown.copy_name: unknown}

    world.controller.remove_unknown()
    world.settle()

    assert world.fleet.list() == {first.candidate.copy_name}


def test_a_copy_that_does_not_stop_is_said_and_does_not_hold_the_release_forever(world: World) -> None:
    first = world.release("one")
    world.fleet.stubborn.add(first.candidate.copy_name)
    second = world.release("two", against="one")

    assert second.state.phase is Phase.DRAIN_OLD
    assert "does not stop" in second.state.hold_reason


@pytest.mark.parametrize("service", ["docs", "other"])
def test_each_service_has_a_port_of_its_own(world: World, service: str) -> None:
    world.release("one", service="docs")
    world.release("one", service="other")

    ports = ledger.claimed_ports(world.url)
    assert set(ports) == {"docs", "other"}
    assert ports["docs"] != ports["other"]
    assert world.router.routes[service].route.port == ports[service]
