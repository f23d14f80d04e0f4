"""Releases from opening to end, told to a controller over fake ports and a real ledger."""

from __future__ import annotations

import re

import pytest

from pipelines import ledger
from pipelines.errors import ArtifactCorrupt, SlipwayError, StoreRefused
from pipelines.formats.headers import Traffic
from pipelines.ledger import Outcome, Phase, Version
from pipelines.release import orders
from pipelines.release.ports import Address, Arm, Capability, FleetError, Tally
from tests.unit.release.fakes import CONFIG, candidate
from tests.unit.release.traffic import Behaviour, Drawn, Steady
from tests.unit.release.world import ALL, World, world_with

BEFORE_USERS = ("smoke", "warmup", "shadow")


def test_a_first_release_goes_from_stage_over_smoke_to_promoted(world: World) -> None:
    opened = world.open(candidate("one"), "run-1")

    world.settle()
    staged = world.read(opened)
    assert (staged.state.phase, staged.state.is_done) == (Phase.STAGE, True)
    assert world.router.receiver("docs") is None, "no user reaches a version that is only staged"

    for transition, phase in (("smoke", Phase.SMOKE), ("warmup", Phase.WARMUP)):
        ledger.insert_permit(world.url, "docs", opened.id, transition)
        world.settle()
        assert world.read(opened).state.phase is phase
    assert world.probe.warmed == [(opened.candidate.copy_name, 3)]

    ledger.insert_permit(world.url, "docs", opened.id, "promote")
    world.settle()
    ended = world.read(opened)
    assert ended.state.phase is Phase.PROMOTED
    assert ended.state.detail == "first release of the service"
    assert ledger.champion(world.url, "docs") == ended.candidate
    world.settle()
    assert world.router.receiver("docs") == ended.candidate.copy_name
    assert world.kinds() == [
        "opened", "stage", "port_claimed", "stage_done", "permitted", "smoke", "smoke_done", "permitted", "warmup",
        "warmup_done", "permitted", "promoting", "confirmed", "promoted",
    ]  # fmt: skip
    assert ledger.verify_chain(world.url, "docs") == len(ledger.events(world.url, "docs"))


def test_a_second_version_replaces_the_first_and_the_old_copy_is_stopped() -> None:
    world = world_with("one")
    first = world.champion
    second = world.release("two", against="one")

    assert second.state.phase is Phase.PROMOTED
    assert second.stable == first
    assert world.fleet.list() == {second.candidate.copy_name}
    assert world.fleet.stopped == [first.copy_name]
    assert world.router.receiver("docs") == second.candidate.copy_name


def test_the_old_copy_is_stopped_only_after_its_last_answer() -> None:
    world = world_with("one")
    first = world.champion
    world.router.in_flight[first.copy_name] = 3
    second = world.release("two", against="one")

    assert second.state.phase is Phase.DRAIN_OLD
    assert first.copy_name in world.fleet.list()

    world.router.in_flight.clear()
    world.settle()
    assert world.read(second).state.phase is Phase.PROMOTED
    assert world.fleet.list() == {second.candidate.copy_name}


def test_weights_that_serve_already_need_no_release() -> None:
    world = world_with("one")
    again = world.release("one", run_id="run-again")

    assert (again.state.phase, again.state.outcome) == (Phase.NOT_NEEDED, Outcome.ALREADY_SERVING)
    assert len(world.fleet.copies) == 1


def test_weights_that_were_replaced_are_released_again_only_by_force() -> None:
    world = world_with("one", "two")

    again = world.release("one", run_id="run-again")
    assert (again.state.phase, again.state.outcome) == (Phase.NOT_NEEDED, Outcome.SUPERSEDED)

    forced = world.open(candidate("one"), "run-forced", *ALL, forced=True)
    world.settle()
    assert world.read(forced).state.phase is Phase.PROMOTED


def test_a_champion_that_changed_since_evaluate_refuses_the_candidate() -> None:
    world = world_with("one")
    late = world.release("two", against=None)

    assert (late.state.phase, late.state.outcome) == (Phase.ROLLED_BACK, Outcome.REFUSED)
    assert late.state.detail == "the champion changed since evaluate: now version 1; clear from evaluate"


TROUBLES = [
    pytest.param(ArtifactCorrupt("its bytes differ"), (Phase.ROLLED_BACK, Outcome.REFUSED), id="its-own-bytes"),
    pytest.param(StoreRefused("no permission"), (Phase.STAGE, Outcome.NONE), id="a-store-that-would-refuse-any"),
]


@pytest.mark.parametrize(("trouble", "ended"), TROUBLES)
def test_only_what_tells_against_the_candidate_refuses_it(
    world: World, trouble: SlipwayError, ended: tuple[Phase, Outcome]
) -> None:
    def fail_to_start(call: str) -> None:
        if call.startswith("start "):
            raise trouble

    world.faults.before = fail_to_start
    state = world.release("one").state
    assert (state.phase, state.outcome) == ended
    assert str(trouble) in state.detail + state.hold_reason


def test_wrong_golden_answers_are_refused_before_any_user() -> None:
    world = world_with("one")
    first = world.champion
    wrong = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.wrong.add(wrong.candidate.copy_name)
    world.settle()

    ended = world.read(wrong)
    assert (ended.state.phase, ended.state.outcome) == (Phase.ROLLED_BACK, Outcome.REFUSED)
    assert "expected 'a', got 'b'" in ended.state.detail
    assert all(held.route.split.canary_bp == 0 for held in world.router.history[-4:])
    assert world.fleet.list() == {first.copy_name}
    assert ledger.champion(world.url, "docs") == first


def test_an_endpoint_that_answers_as_somebody_else_is_rolled_back() -> None:
    world = world_with("one")
    first = world.champion
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.impostors[second.candidate.copy_name] = first
    world.settle()

    ended = world.read(second)
    assert (ended.state.phase, ended.state.outcome) == (Phase.ROLLED_BACK, Outcome.UNHEALTHY)
    assert "the endpoint answers as version one" in ended.state.detail
    assert world.router.receiver("docs") == first.copy_name


def test_the_weights_rise_one_after_the_other_and_each_has_a_newer_generation() -> None:
    world = world_with("one")
    world.router.history.clear()
    world.release("two", against="one")

    splits = [(held.route.split.mirror_bp, held.route.split.canary_bp) for held in world.router.history]
    assert [split for number, split in enumerate(splits) if split not in splits[:number]] == [
        (0, 0), (10_000, 0), (0, 500), (0, 5000), (0, 10_000),
    ]  # fmt: skip
    generations = [held.generation for held in world.router.history]
    assert generations == sorted(generations)


def test_a_candidate_that_nobody_could_vet_is_not_staged() -> None:
    world = world_with("one")
    world.probe.is_mute = True
    second = world.release("two", against="one")
    assert (second.state.phase, second.state.is_done) == (Phase.STAGE, False)
    assert (
        second.state.hold_reason == "the new copy is not compared with the old one: /docs.json through the router: 503"
    )

    world.probe.is_mute = False
    world.settle()
    assert world.read(second).state.phase is Phase.PROMOTED


@pytest.mark.parametrize(
    ("lost", "refusal"),
    [
        pytest.param({"Completion.usage"}, "no longer offers Completion.usage; its clients would break", id="less"),
        pytest.param(set(), "", id="more-is-no-harm"),
    ],
)
def test_a_candidate_that_offers_less_than_stable_is_refused(lost: set[str], refusal: str) -> None:
    world = world_with("one")
    offered = frozenset({"POST /v1/completions", "Completion.usage"})
    world.probe.interfaces = {Arm.STABLE: offered, Arm.CANARY: (offered | {"GET /new"}) - lost}
    second = world.release("two", against="one")
    assert second.state.phase is (Phase.ROLLED_BACK if lost else Phase.PROMOTED)
    assert refusal in second.state.detail


def test_a_stable_version_that_is_itself_too_bad_refuses_every_candidate_with_the_figure() -> None:
    world = world_with("one")
    first = world.champion
    world.fleet.traffic = Drawn(seed=1)
    world.fleet.traffic.behaviours[first.copy_name] = Behaviour(error_rate=0.04)
    world.fleet.traffic.flow(100.0, world.router.routes, world.fleet.ready)
    second = world.release("two", against="one")

    assert (second.state.phase, second.state.outcome) == (Phase.ROLLED_BACK, Outcome.REFUSED)
    assert re.search(r"\d+ of stable's \d+ answers are bad \(\d\.\d\d %\).*max_bad_rate, 1 %", second.state.detail)


@pytest.mark.parametrize(
    ("missing", "rules", "reason"),
    [
        pytest.param(
            Capability.SESSIONS,
            {"session_header": "X-Session"},
            "rollout.session_header: this router cannot count sessions",
            id="sessions",
        ),
        pytest.param(
            Capability.MIRROR, {"shadow_seconds": 30}, "rollout.shadow_seconds: this router cannot mirror", id="mirror"
        ),
        pytest.param(Capability.COUNTS, {}, "nobody knows how to read this router's counts", id="counts"),
    ],
)
def test_what_a_router_cannot_do_is_refused_at_stage(
    missing: Capability, rules: dict[str, object], reason: str
) -> None:
    world = world_with("one")
    world.router.capabilities = frozenset(Capability) - {missing}
    asked = CONFIG.model_copy(update=rules)
    second = world.open(candidate("two", against="one", config=asked), "run-2", *ALL)
    world.settle()
    assert world.read(second).state.detail.startswith(reason)


def test_a_fleet_that_does_not_answer_does_not_keep_a_bad_candidate_from_being_counted() -> None:
    world = world_with("one")
    second = world.open(candidate("two", against="one"), "run-2", *BEFORE_USERS, "advance_005")
    world.settle()
    assert world.read(second).state.canary_bp == 500

    def away(_version: Version) -> Address:
        raise FleetError("supervisord does not answer")

    world.fleet.start = away  # type: ignore[method-assign]
    assert isinstance(world.traffic, Steady)
    world.traffic.tallies = {
        (Arm.CANARY, Traffic.USER): Tally(400, 80), (Arm.STABLE, Traffic.USER): Tally(7600, 8),
    }  # fmt: skip
    world.settle()
    state = world.read(second).state
    assert (state.phase, state.outcome, state.canary_bp) == (Phase.ROLLING_BACK, Outcome.WORSE, 0)
    assert "supervisord does not answer" in state.hold_reason
    assert world.router.routes["docs"].route.split.canary_bp == 0, "users are back although nothing can be started"


def test_a_rejected_route_holds_the_rollout_with_the_routers_reason(world: World) -> None:
    world.router.rejection = "listener docs: cannot bind"
    opened = world.open(candidate("one"), "run-1", *ALL)
    world.settle()

    assert world.read(opened).state.hold_reason == "the new copy is not ready: listener docs: cannot bind"
    world.router.rejection = ""
    world.settle()
    assert world.read(opened).state.phase is Phase.PROMOTED


def test_a_first_release_that_was_never_routed_ends_without_a_router_that_takes_its_route(world: World) -> None:
    world.router.rejection = "HTTPRoutes are forbidden"
    opened = world.open(candidate("one"), "run-1", *ALL)
    world.settle()
    orders.abort(world.url, "docs", "ops", fleet=world.fleet, router=world.router)
    world.settle()

    ended = world.read(opened).state
    assert (ended.phase, ended.outcome) == (Phase.ROLLED_BACK, Outcome.ABORTED)
    assert not world.fleet.list()


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


def test_users_are_never_moved_to_a_copy_that_is_not_ready() -> None:
    world = world_with("one")
    first = world.champion
    second = world.open(candidate("two", against="one"), "run-2", *ALL)
    world.probe.impostors[second.candidate.copy_name] = first  # forces a rollback
    world.faults.after = lambda call: world.fleet.slow.add(first.copy_name) if call == "served" else None
    world.settle()  # stable is down in that very moment

    held = world.read(second)
    assert held.state.phase is Phase.ROLLING_BACK
    assert held.state.hold_reason == "stable is not ready to take the traffic back"
    assert world.router.receiver("docs") == second.candidate.copy_name

    world.faults.after = lambda _call: None
    world.fleet.slow.clear()
    world.settle()
    assert world.read(second).state.phase is Phase.ROLLED_BACK
    assert world.router.receiver("docs") == first.copy_name


def test_copies_that_nobody_needs_are_removed_and_the_champion_is_brought_back() -> None:
    world = world_with("one")
    first = world.champion
    stray = first.model_copy(update={"bento": candidate("stray").bento})
    unknown = first.model_copy(update={"service": "gone"})
    world.fleet.copies = {stray.copy_name: stray, unknown.copy_name: unknown}

    world.controller.remove_unknown()
    world.settle()

    assert world.fleet.list() == {first.copy_name}


def test_a_copy_that_does_not_stop_is_said_and_does_not_hold_the_release_forever() -> None:
    world = world_with("one")
    first = world.champion
    world.fleet.stubborn.add(first.copy_name)
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
