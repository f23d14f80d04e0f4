"""The replayer: each reference once per pair of models, then recorded requests too, only while the two are compared."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.formats.requests import RecordedRequest, ReferenceRequest, write_requests
from pipelines.ledger import Outcome, Rollout
from pipelines.release.lowering import request_rollback
from pipelines.release.ports import Arm, ProbeFailed
from pipelines.release.replayer import Replayer, key_of
from pipelines.spec.serving import ReplayConfig
from pipelines.store import Store
from tests.unit.release.fakes import CONFIG, artifact, candidate
from tests.unit.release.sqlite_ledger import Clock
from tests.unit.release.world import Moment, World, world_with

REFERENCES = [ReferenceRequest(id=f"r{number}", prompt="Once", continuation=" upon a time") for number in range(4)]
RECORDED = [RecordedRequest(path="/v1/completions", prompt=f"u{number}", max_tokens=4) for number in range(6)]
RATE = CONFIG.model_copy(update={"replay": ReplayConfig(requests_per_second=2.0)})


class Asked:
    """Scores references and repeats recorded requests, remembers them, takes time, and fails for some."""

    def __init__(self, clock: Clock, seconds: float = 0.1) -> None:
        self.clock = clock
        self.seconds = seconds
        self.references: list[str] = []
        self.repeated: list[tuple[Arm, str]] = []
        self.turns: list[str] = []
        self.failing: set[str] = set()

    def score(self, _port: int, arm: Arm, reference: ReferenceRequest) -> float | None:
        self.clock.tick(self.seconds / 2)
        if arm is Arm.STABLE:
            self.references.append(reference.id)
            self.turns.append(reference.id)
        if arm is Arm.CANARY and reference.id in self.failing:
            raise ProbeFailed("/v1/completions through the router: 500")
        return -1.0 if arm is Arm.STABLE else -2.0

    def repeat(self, _port: int, arm: Arm, request: RecordedRequest) -> None:
        prompt = str(request.prompt)
        self.repeated.append((arm, prompt))
        if arm is Arm.STABLE:
            self.turns.append(prompt)
            if prompt in self.failing:
                raise ProbeFailed("/v1/completions through the router: timed out")


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """Return a world with a rollout in the mirror whose bento carries the references."""
    (tmp_path / "bento" / "src").mkdir(parents=True)
    write_requests(tmp_path / "bento" / "src" / "reference.jsonl", [*REFERENCES, REFERENCES[0]])
    return mirroring(artifacts.publish(store, "bento", tmp_path / "bento")).again()


@functools.cache
def mirroring(bento: ArtifactRef) -> Moment:
    """Bring a second version, in this bento, as far as the mirror."""
    world = world_with("one")
    wanted = candidate("two", against="one", config=RATE).model_copy(update={"bento": bento})
    world.open(wanted, "run-2", "smoke", "warmup", "shadow")
    world.settle()
    return Moment.of(world)


@pytest.fixture
def mirrored(world: World) -> Rollout:
    """Return the rollout of the second version."""
    (latest,) = ledger.list_rollouts(world.url, "docs", 1)
    return latest


@pytest.fixture
def asked(world: World) -> Asked:
    return Asked(world.clock)


@pytest.fixture
def replayer(world: World, store: Store, asked: Asked) -> Replayer:
    return Replayer(world.url, store, world.fleet, asked, clock=world.clock)  # type: ignore[arg-type]


def keys(*ids: str) -> list[str]:
    return [key_of(ReferenceRequest(id=name, prompt="p", continuation="c")) for name in ids]


def pairs_of(world: World) -> list[ledger.Pair]:
    return ledger.list_pairs(world.url, "docs", artifact("model", "one"), artifact("model", "two"))


def keep_recorded(world: World, rollout: Rollout, requests: list[RecordedRequest]) -> None:
    """Let the copy of the old version have recorded these."""
    assert rollout.stable is not None
    world.fleet.recordings[rollout.stable.copy_name] = requests


def sent(world: World, pauses: Iterator[float], count: int | None = None) -> list[float]:
    """Wait as told, so many times or to the end; return the pauses."""
    found = []
    for pause in islice(pauses, count):
        found.append(round(pause, 6))
        world.clock.tick(pause)
    return found


def test_each_reference_is_scored_once_and_then_goes_on_as_pinned_traffic(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    sent(world, replayer.replay("docs", set()), 10)
    assert asked.references == ["r0", "r1", "r2", "r3", "r0", "r1", "r2", "r3", "r0", "r1"]
    assert pairs_of(world) == [ledger.Pair(key_of(reference), -1.0, -2.0) for reference in REFERENCES]


def test_a_restart_goes_on_with_what_is_not_scored_yet(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    sent(world, replayer.replay("docs", set()), 2)
    sent(world, replayer.replay("docs", set()), 4)
    assert asked.references == ["r0", "r1", "r2", "r3", "r0", "r1"]
    assert [pair.reference for pair in pairs_of(world)] == keys("r0", "r1", "r2", "r3")


def test_the_rate_is_kept_and_a_slow_answer_is_not_made_up_for_by_a_burst(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    assert sent(world, replayer.replay("docs", set()), 3) == [0.4, 0.4, 0.4]
    asked.seconds = 2.0
    assert sent(world, replayer.replay("docs", set()), 2) == [0.0, 0.0]
    asked.seconds = 0.1
    assert sent(world, replayer.replay("docs", set()), 2) == [0.4, 0.4]


def test_a_reference_that_is_not_answered_does_not_keep_the_others_waiting(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    asked.failing = {"r1"}
    pauses = replayer.replay("docs", set())
    sent(world, pauses, 4)
    assert [pair.reference for pair in pairs_of(world)] == keys("r0", "r2", "r3")
    asked.failing = set()
    sent(world, pauses, 2)
    assert [pair.reference for pair in pairs_of(world)] == keys("r0", "r2", "r3", "r1")


def test_recorded_requests_of_the_old_version_follow_the_references_and_then_take_turns_with_them(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    keep_recorded(world, mirrored, RECORDED)
    sent(world, replayer.replay("docs", set()), 18)
    assert asked.turns[:4] == ["r0", "r1", "r2", "r3"]
    assert asked.turns[4:14] == ["r0", "u0", "r1", "u1", "r2", "u2", "r3", "u3", "u4", "u5"]
    assert asked.turns[14:] == ["r0", "r1", "r2", "r3"]
    assert asked.repeated == [(arm, f"u{number}") for number in range(6) for arm in Arm]
    assert [pair.reference for pair in pairs_of(world)] == keys("r0", "r1", "r2", "r3")


def test_a_recorded_request_is_sent_once_per_pair_of_models_however_often_it_was_asked(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    keep_recorded(world, mirrored, [*RECORDED[:2], *RECORDED[:2]])
    repeated: set[str] = set()
    sent(world, replayer.replay("docs", repeated), 14)
    sent(world, replayer.replay("docs", repeated), 14)
    assert asked.repeated == [(arm, prompt) for prompt in ("u0", "u1") for arm in Arm]


def test_what_is_recorded_meanwhile_has_its_turn_in_the_next_round(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    keep_recorded(world, mirrored, RECORDED[:1])
    pauses = replayer.replay("docs", set())
    sent(world, pauses, 9)
    keep_recorded(world, mirrored, RECORDED[5:])
    sent(world, pauses, 5)
    assert asked.turns[4:] == ["r0", "u0", "r1", "r2", "r3", "r0", "u5", "r1", "r2", "r3"]


def test_both_versions_meet_a_recorded_request_that_the_old_one_does_not_answer(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    keep_recorded(world, mirrored, RECORDED[:2])
    asked.failing = {"u0"}
    sent(world, replayer.replay("docs", set()), 8)
    assert asked.repeated == [(arm, prompt) for prompt in ("u0", "u1") for arm in Arm]


def test_what_the_new_version_recorded_is_not_its_own_examination(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    world.fleet.recordings[mirrored.candidate.copy_name] = RECORDED
    sent(world, replayer.replay("docs", set()), 10)
    assert asked.repeated == []


def test_it_stops_when_the_rollout_leaves(world: World, mirrored: Rollout, replayer: Replayer, asked: Asked) -> None:
    pauses = replayer.replay("docs", set())
    sent(world, pauses, 2)
    request_rollback(world.url, mirrored.id, Outcome.ABORTED, "a person", fleet=world.fleet, router=world.router)
    assert len(sent(world, pauses)) <= 3
    assert sent(world, replayer.replay("docs", set())) == []


def test_nothing_is_replayed_without_a_comparison(world: World, store: Store, replayer: Replayer) -> None:
    world.open(candidate("one", service="mail", config=RATE), "run-1")
    world.settle("mail")
    assert list(replayer.replay("mail", set())) == []
    assert list(replayer.replay("nobody", set())) == []


def test_it_is_told_to_stop_and_outlives_every_error(
    world: World, mirrored: Rollout, replayer: Replayer, asked: Asked
) -> None:
    class Stopping(threading.Event):
        """Lets fake time pass instead of waiting, and is set after some waits."""

        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            world.clock.tick(timeout or 0.0)
            self.waits += 1
            if self.waits == 6:
                self.set()
            return self.is_set()

    def breaks(*_arguments: object) -> float:
        asked.score = Asked.score.__get__(asked)  # type: ignore[method-assign]
        raise ZeroDivisionError

    asked.score = breaks  # type: ignore[assignment, method-assign]
    replayer.keep_replaying("docs", Stopping())
    assert asked.references == ["r0", "r1", "r2", "r3", "r0"]
