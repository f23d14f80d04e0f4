"""A whole release world in memory: a real ledger, fakes behind the ports, a controller that looks when told to."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines import ledger
from pipelines.ledger import Candidate, Rollout
from pipelines.release.controller import Controller
from tests.unit.release.fakes import FakeFleet, FakeProbe, FakeRouter, Faults, candidate

ALL = ("smoke", "promote")


@dataclass
class World:
    """Everything a story about a release needs."""

    url: str
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.fleet = FakeFleet(self.faults)
        self.router = FakeRouter(self.faults)
        self.probe = FakeProbe(self.fleet, self.router)
        self.controller = Controller(self.url, self.fleet, self.router, self.probe)

    def open(self, wanted: Candidate, run_id: str, *permits: str, forced: bool = False) -> Rollout:
        """Open a rollout and permit transitions beyond the first."""
        rollout = ledger.open_rollout(self.url, wanted, run_id=run_id, forced=forced)
        for transition in permits:
            ledger.insert_permit(self.url, rollout.service, rollout.id, transition)
        return rollout

    def settle(self, service: str = "docs") -> None:
        """Look until nothing moves."""
        for _ in range(50):
            if not self.controller.look(service):
                return
        raise AssertionError(f"{service} does not come to rest")

    def release(self, word: str, *, against: str | None = None, service: str = "docs", run_id: str = "") -> Rollout:
        """Release a version with all its permits and return the rollout's end."""
        opened = self.open(candidate(word, against=against, service=service), run_id or f"run-{word}", *ALL)
        self.settle(service)
        return self.read(opened)

    def read(self, rollout: Rollout) -> Rollout:
        """Return a rollout as it is now."""
        return ledger.read_rollout(self.url, rollout.id)

    def kinds(self, service: str = "docs") -> list[str]:
        """Return the kinds of a service's events, holds left out."""
        return [event.kind for event in ledger.events(self.url, service) if event.kind != "held"]
