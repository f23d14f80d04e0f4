"""Whole rollouts of a candidate that behaves in a certain way, on a fake clock: minutes of traffic in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import insert

from pipelines.ledger import Phase, Rollout, tables
from pipelines.ledger.database import transaction
from pipelines.spec import RolloutConfig
from pipelines.spec.serving import QualityConfig
from tests.unit.release.fakes import candidate
from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.traffic import GOOD, Behaviour, Drawn
from tests.unit.release.world import World

REFERENCES = 40
RULES = RolloutConfig(
    weights=(5, 50),
    shadow_seconds=20,
    bake_seconds=20,
    bake_full_seconds=20,
    min_user_exposures=5,
    quality=QualityConfig(min_pairs=REFERENCES),
    max_hold_seconds=300,
    look_seconds=10,
)
"""As a real service has it, but for shorter bakes and fewer references."""


@dataclass
class Trial:
    """A service with version `one` in production, to which `two` goes out."""

    world: World
    rollout: Rollout
    traffic: Drawn

    @classmethod
    def begin(cls, seed: int, behaviour: Behaviour = GOOD, config: RolloutConfig = RULES, override: str = "") -> Trial:
        """Release `one`, then open the rollout of `two`, with every permit."""
        clock, traffic = Clock(), Drawn(seed)
        world = World(new_ledger(clock=clock), traffic=traffic, clock=clock)
        world.run_out(world.open(candidate("one", config=config), "run-1", *world.permits(config)))
        trial = cls(
            world, world.open(candidate("two", against="one", config=config), "run-2", *world.permits(config)), traffic
        )
        traffic.behaviours[trial.rollout.candidate.copy_name] = behaviour
        return trial

    @property
    def canary(self) -> str:
        """Name of the candidate's copy."""
        return self.rollout.candidate.copy_name

    def learn(self) -> None:
        """Let the candidate take its time to start; stable's latencies are learnt meanwhile."""
        self.world.fleet.slow.add(self.canary)
        for _ in range(40):
            self.world.pass_time(1)
        self.world.fleet.slow.discard(self.canary)

    def score_pairs(self, *, worse: float, seed: int = 0, count: int = REFERENCES) -> None:
        """Score all references, as the replayer does, with the candidate worse in such a share of them."""
        draws = np.random.default_rng(seed).random(count)
        stable = candidate("one").model.uri
        rows = [
            {
                "service": "docs",
                "stable": stable,
                "candidate": self.rollout.candidate.model.uri,
                "reference": str(number),
                "stable_score": -1.0,
                "candidate_score": -1.2 if draw < worse else -0.8,
            }
            for number, draw in enumerate(draws)
        ]
        with transaction(self.world.url) as connection:
            connection.execute(insert(tables.pairs), rows)

    def run_until(self, phase: Phase, *, seconds: float = 3600.0) -> Rollout:
        """Let time pass until a phase is reached."""
        return self.run_while(lambda rollout: rollout.state.phase is not phase, seconds=seconds)

    def run_while(self, goes_on: Callable[[Rollout], bool], *, seconds: float = 3600.0) -> Rollout:
        """Let time pass, look by look, while something holds."""
        until = self.world.clock.now + seconds
        while goes_on(rollout := self.world.read(self.rollout)):
            assert self.world.clock.now < until, f"{rollout} is still at {rollout.state}"
            self.world.pass_time(rollout.config.look_seconds)
        return rollout

    def run_out(self) -> Rollout:
        """Let time pass until the rollout is over."""
        return self.world.run_out(self.rollout)
