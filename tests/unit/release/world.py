"""A whole release world in memory: a real ledger, fakes behind the ports, a controller that looks when told to."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import ledger
from pipelines.ledger import Candidate, Rollout, Version
from pipelines.release.controller import Controller
from pipelines.release.course import transitions
from pipelines.spec import RolloutConfig
from tests.unit.release.fakes import CONFIG, FakeFleet, FakeProbe, FakeRouter, Faults, candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.traffic import Source, Steady

ALL = transitions(CONFIG)[1:]
"""Every permit but the first, which comes with the rollout."""


@dataclass
class World:
    """Everything a story about a release needs."""

    url: str
    faults: Faults = field(default_factory=Faults)
    traffic: Source = field(default_factory=Steady)
    clock: Clock = field(default_factory=Clock)
    """The ledger's, where it was made with it."""

    def __post_init__(self) -> None:
        self.fleet = FakeFleet(self.faults, self.traffic)
        self.router = FakeRouter(self.faults, self.traffic)
        self.probe = FakeProbe(self.fleet, self.router)
        self.controller = Controller(self.url, self.fleet, self.router, self.probe)

    def open(self, wanted: Candidate, run_id: str, *permits: str, forced: bool = False, override: str = "") -> Rollout:
        """Open a rollout and permit transitions beyond the first."""
        rollout = ledger.open_rollout(self.url, wanted, run_id=run_id, forced=forced, override=override)
        for transition in permits:
            ledger.insert_permit(self.url, rollout.service, rollout.id, transition)
        return rollout

    def permits(self, config: RolloutConfig) -> tuple[str, ...]:
        """Return every permit of a rollout but the first."""
        return transitions(config)[1:]

    def settle(self, service: str = "docs") -> None:
        """Look until nothing moves, and a few times more: a look that only counts is no move."""
        idle = 0
        for _ in range(100):
            self.clock.tick(CONFIG.look_seconds)
            idle = 0 if self.controller.look(service) else idle + 1
            if idle == 4:
                return
        raise AssertionError(f"{service} does not come to rest")

    def release(self, word: str, *, against: str | None = None, service: str = "docs", run_id: str = "") -> Rollout:
        """Release a version with all its permits and return the rollout's end."""
        opened = self.open(candidate(word, against=against, service=service), run_id or f"run-{word}", *ALL)
        self.settle(service)
        return self.read(opened)

    def pass_time(self, seconds: float, service: str = "docs") -> None:
        """Let time pass, with the traffic that it brings; then look as the controller does: again after every move."""
        self.clock.tick(seconds)
        self.traffic.flow(seconds, self.router.routes, self.fleet.ready)
        self.look_on(service)

    def look_on(self, service: str = "docs") -> None:
        """Look until nothing moves."""
        for _ in range(100):
            if not self.controller.look(service):
                return
        raise AssertionError(f"{service} moves on and on")

    def run_out(self, rollout: Rollout, *, seconds: float = 3600.0) -> Rollout:
        """Let time pass, look by look, until a rollout is over; return its end."""
        until = self.clock.now + seconds
        while not (rollout := self.read(rollout)).state.is_final:
            assert self.clock.now < until, f"{rollout} is still at {rollout.state.phase}: {rollout.state.hold_reason}"
            self.pass_time(rollout.config.look_seconds, rollout.service)
        return rollout

    def read(self, rollout: Rollout) -> Rollout:
        """Return a rollout as it is now."""
        return ledger.read_rollout(self.url, rollout.id)

    @property
    def champion(self) -> Version:
        """What is in production."""
        found = ledger.champion(self.url, "docs")
        assert found is not None
        return found

    def kinds(self, service: str = "docs") -> list[str]:
        """Return the kinds of a service's events, looks left out."""
        return [event.kind for event in ledger.events(self.url, service) if event.kind not in ("held", "look")]


@dataclass(frozen=True)
class Moment:
    """A world as it was once: what outlives a controller that dies then."""

    world: bytes
    """Copies, routes, traffic and time, as pickle writes them."""

    ledger: bytes
    """All that was written down."""

    @classmethod
    def of(cls, world: World) -> Moment:
        """Return a world's present."""
        return cls(pickle.dumps(world), Path(world.url.removeprefix("sqlite:///")).read_bytes())

    def again(self) -> World:
        """Return the world of that moment, with its ledger, without faults."""
        world: World = pickle.loads(self.world)  # noqa: S301 - written by this class
        new_ledger(clock=world.clock, content=self.ledger)
        return world


def world_with(*words: str) -> World:
    """Return a world whose service was released in versions, one replacing the other; only once for all tests."""
    return _released(words).again()


@functools.cache
def _released(words: tuple[str, ...]) -> Moment:
    clock = Clock()
    world = World(new_ledger(clock=clock), clock=clock)
    for before, word in zip((None, *words), words, strict=False):
        world.release(word, against=before)
    return Moment.of(world)
