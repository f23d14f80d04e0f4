"""Releases of good and bad candidates, one after the other, while users send requests to a running stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines import ledger
from pipelines.ledger import Outcome, Rollout
from pipelines.release import adapters
from pipelines.settings import Settings
from tests.load.candidates import Candidate, changed, repackaged, slow, under_trained
from tests.load.client import Exchange, read_ledger
from tests.load.demo import users
from tests.load.endings import Ending, Kind, ending
from tests.load.follow import NotReleased, follow
from tests.load.harm import Dying, FailingUsers, Harm

RATE = 20.0
MODEL = "soak"
FIRST_STEPS = 60
MORE_STEPS = 40
"""By which each better version is trained longer than the last one."""

FEW_STEPS = 6
FIRST_QUEUE = 64
"""Longest queue of the first version; each one that is packaged again gets another."""

SPEC: dict[str, dict[str, object]] = {
    "training": {"learning_rate": 0.02, "warmup_steps": 4, "checkpoint_every_steps": 100},
    "evaluation": {"noninferiority_margin": 0.05},
    "packaging": {"num_reference_requests": 60},
}
"""So small a model learns something in so few steps; measured, two seeds differ by up to 0.02 bits per byte, which is
told as worse now and then, so a better model keeps its seed; and a model after 6 steps is worse by 0.6."""

RULES: dict[str, object] = {
    "weights": [25, 50],
    "look_seconds": 1,
    "shadow_seconds": 10,
    "bake_seconds": 8,
    "bake_full_seconds": 5,
    "warmup_requests": 20,
    "min_user_exposures": 20,
    "max_bad_rate": 0.01,
    "unready_seconds": 10,
    "max_hold_seconds": 300,
    "quality": {"min_pairs": 60, "margin": 0.03},
    "replay": {"requests_per_second": 20},
}
"""Short times; the rates, and what they need as evidence, are the product's own."""


class Releases:
    """Releases one candidate after the other on a running stack."""

    def __init__(self, settings: Settings, spec: Path, folder: Path, **rules: object) -> None:
        """Make a spec of a tiny one; nothing is released yet.

        Args:
            settings: the stack's.
            spec: whose corpus and architecture are used.
            folder: for specs, logs and the users' records.
            rules: of the rollouts, instead of some of `RULES`.
        """
        self._settings, self._folder = settings, folder
        sections = SPEC | {"rollout": RULES | rules}
        self._champion = Candidate(changed(spec, folder, sections, name=MODEL), seed=1, max_steps=FIRST_STEPS)
        self._number = 0

    def begin(self) -> None:
        """Release the first version.

        Raises:
            NotReleased: when it does not serve.
        """
        rollout = follow(self._settings, MODEL, self._champion, note="first", log=self._folder / "run-00.log")
        if rollout.state.outcome is not Outcome.PROMOTED:
            raise NotReleased(f"the first version is not released: {rollout.state.detail}")

    def release(self, kind: Kind, look: Callable[[Rollout], object] = lambda _: None) -> Ending:
        """Release a candidate of a kind while users send requests, and return how that ended.

        Args:
            kind: what is released.
            look: is shown the rollout again and again.

        Raises:
            NotReleased: when the candidate never got as far as a rollout.
        """
        self._number += 1
        folder = self._folder / f"{self._number:02}-{kind}"
        folder.mkdir()
        candidate = self._candidate(kind, folder)
        record = folder / "users.jsonl"
        with users(f"http://127.0.0.1:{self._port()}", record, rate=RATE):
            rollout = follow(
                self._settings, MODEL, candidate, note=kind, harm=self._harm(kind), look=look, log=folder / "run.log"
            )
        if rollout.state.outcome is Outcome.PROMOTED:
            self._champion = replace(candidate, spec=self._champion.spec)
        return self._ending(kind, rollout, read_ledger(record))

    def _candidate(self, kind: Kind, folder: Path) -> Candidate:
        seed = 1 + self._number
        match kind:
            case Kind.BETTER:
                return replace(self._champion, max_steps=self._champion.max_steps + MORE_STEPS)
            case Kind.WRONG_ANSWERS:
                return under_trained(self._champion, folder, seed=seed, max_steps=FEW_STEPS)
            case _:
                again = repackaged(self._champion, folder, max_queue=FIRST_QUEUE + self._number)
                return slow(again, folder) if kind is Kind.SLOW else again

    def _harm(self, kind: Kind) -> Harm:
        match kind:
            case Kind.ERRORS:
                return FailingUsers(self._settings)
            case Kind.DIES:
                return Dying(self._settings)
            case _:
                return Harm()

    def _ending(self, kind: Kind, rollout: Rollout, exchanges: Sequence[Exchange]) -> Ending:
        events = ledger.events(self._settings.ledger_url(), MODEL, rollout=rollout.id)
        weights = [event.facts["canary_bp"] / 100 for event in events if event.kind == "confirmed"]
        served = adapters.connect(self._settings).probe.served(self._port())
        right = rollout.candidate if kind.is_good else rollout.stable
        return ending(
            kind,
            rollout,
            weight=max(weights, default=0.0),
            exchanges=exchanges,
            served=served,
            is_served_right=right is not None and served.is_of(right),
        )

    def _port(self) -> int:
        service = ledger.read_service(self._settings.ledger_url(), MODEL)
        if service is None or service.port is None:
            raise NotReleased(f"{MODEL} has no endpoint")
        return service.port
