"""A fleet, a router and a probe that remember what they were told, and can be made to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipelines.artifacts import ArtifactRef
from pipelines.errors import RouterRejected
from pipelines.ledger import Candidate, Version
from pipelines.release.ports import Address, FleetError, Observed, ProbeFailed, Route, Served, SmokeReport
from pipelines.spec import RolloutConfig

CONFIG = RolloutConfig(ready_timeout_seconds=60, permit_timeout_seconds=60, drain_timeout_seconds=60, look_seconds=0.01)


def artifact(kind: str, word: str) -> ArtifactRef:
    """Return a reference that is easy to tell apart."""
    return ArtifactRef(kind=kind, digest=word.encode().hex().ljust(64, "0")[:64])


def candidate(
    word: str, *, service: str = "docs", against: str | None = None, config: RolloutConfig = CONFIG
) -> Candidate:
    """Return a candidate whose artifacts are all named after one word."""
    return Candidate(
        service=service,
        bento=artifact("bento", word),
        tag=f"{service}:{word}",
        model=artifact("model", word),
        evaluation=artifact("evaluation", word),
        evaluated_against=artifact("model", against) if against else None,
        numbers={"perplexity": 70.0},
        spec=artifact("spec", word),
        rollout=config,
        is_idempotent=True,
    )


@dataclass
class Faults:
    """Lets a chosen call of any fake raise, before or after it did its work."""

    calls: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _call: None
    after: Callable[[str], None] = lambda _call: None

    def run(self, call: str, work: Callable[[], object]) -> None:
        self.calls.append(call)
        self.before(call)
        work()
        self.after(call)


@dataclass
class FakeFleet:
    """Copies as names; one is ready unless it is in `slow`."""

    faults: Faults = field(default_factory=Faults)
    copies: dict[str, Version] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)

    def start(self, version: Version) -> Address:
        copy = version.copy_name
        if copy not in self.copies:
            port = 9000 + len(self.addresses)
            self.faults.run(f"start {copy}", lambda: self.copies.update({copy: version}))
            self.addresses.setdefault(copy, Address("127.0.0.1", port))
        return self.addresses.setdefault(copy, Address("127.0.0.1", 9000 + len(self.addresses)))

    def stop(self, copy: str) -> None:
        if copy in self.stubborn:
            raise FleetError(f"{copy} does not stop")
        self.faults.run(f"stop {copy}", lambda: self.copies.pop(copy, None))
        self.stopped.append(copy)

    def ready(self, copy: str) -> bool:
        return copy in self.copies and copy not in self.slow

    def list(self, service: str | None = None) -> frozenset[str]:
        return frozenset(copy for copy, version in self.copies.items() if service in (None, version.service))


@dataclass
class FakeRouter:
    """Routes in force, with the history of all of them."""

    faults: Faults = field(default_factory=Faults)
    routes: dict[str, Observed] = field(default_factory=dict)
    history: list[Observed] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    rejection: str = ""

    def free_ports(self) -> Iterable[int]:
        return range(8100, 8200)

    def apply(self, route: Route, generation: int) -> None:
        if self.rejection:
            raise RouterRejected(self.rejection)
        held = self.routes.get(route.service)
        if held is not None and generation < held.generation:
            raise RouterRejected(f"generation {generation} is older than {held.generation}")
        self.faults.run(f"apply {generation}", lambda: self.routes.update({route.service: Observed(route, generation)}))
        self.history.append(self.routes[route.service])

    def observe(self, service: str) -> Observed | None:
        return self.routes.get(service)

    def drain(self, service: str, copy: str) -> int:
        return self.in_flight.get(copy, 0)

    def receiver(self, service: str) -> str | None:
        """Return the copy that a user of the service reaches."""
        held = self.routes.get(service)
        if held is None:
            return None
        target = held.route.canary if held.route.split.canary_bp else held.route.stable
        return target.copy if target else None


@dataclass
class FakeProbe:
    """Asks the fake fleet through the fake router; `wrong` copies answer golden requests falsely."""

    fleet: FakeFleet
    router: FakeRouter
    wrong: set[str] = field(default_factory=set)
    impostors: dict[str, Version] = field(default_factory=dict)

    def smoke(self, port: int, version: Version) -> SmokeReport:
        routed = self.router.routes[version.service].route.canary
        if routed is None or not self.fleet.ready(version.copy_name):
            raise ProbeFailed("no answer")
        if version.copy_name in self.wrong:
            return SmokeReport(passed=False, evidence="golden request 0: expected 'a', got 'b'")
        return SmokeReport(passed=True, evidence="8 golden requests")

    def served(self, port: int) -> Served:
        service = next(name for name, held in self.router.routes.items() if held.route.port == port)
        copy = self.router.receiver(service)
        if copy is None or not self.fleet.ready(copy):
            raise ProbeFailed("503")
        version = self.impostors.get(copy, self.fleet.copies[copy])
        return Served(version.bento_version, version.model.digest)
