"""A fleet, a router and a probe that remember what they were told, and can be made to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pipelines.artifacts import ArtifactRef
from pipelines.errors import RouterRejected
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.formats.requests import RecordedRequest, ReferenceRequest
from pipelines.ledger import Candidate, Version
from pipelines.release.ports import (
    Address,
    Arm,
    Capability,
    Counts,
    FleetError,
    Observed,
    ProbeFailed,
    Route,
    RouterUnavailable,
    Served,
    Sessions,
    SmokeReport,
)
from pipelines.spec import RolloutConfig
from pipelines.spec.serving import QualityConfig
from tests.unit.release.traffic import Source, Steady

Found = TypeVar("Found")

CONFIG = RolloutConfig(
    weights=(5, 50),
    bake_seconds=0,
    bake_full_seconds=0,
    shadow_seconds=0.001,
    warmup_requests=3,
    min_user_exposures=0,
    quality=QualityConfig(enabled=False),
    ready_timeout_seconds=60,
    permit_timeout_seconds=60,
    drain_timeout_seconds=60,
    look_seconds=0.01,
)
"""A release without waits: what the fakes count in one look is enough evidence."""


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

    def __reduce__(self) -> tuple[type[Faults], tuple[()]]:
        """Let a copy of a world begin without faults."""
        return Faults, ()

    def run(self, call: str, work: Callable[[], Found]) -> Found:
        self.calls.append(call)
        self.before(call)
        found = work()
        self.after(call)
        return found


@dataclass
class FakeFleet:
    """Copies as names; one is ready unless it is in `slow`."""

    faults: Faults = field(default_factory=Faults)
    traffic: Source = field(default_factory=Steady)
    copies: dict[str, Version] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Copies whose metrics cannot be read."""

    recordings: dict[str, list[RecordedRequest]] = field(default_factory=dict)

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

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        if copy in self.silent:
            raise FleetError(f"{copy} does not tell its metrics")
        return self.faults.run(f"meter {copy}", lambda: self.traffic.meter(copy))

    def recorded(self, copy: str) -> tuple[RecordedRequest, ...]:
        return tuple(self.recordings.get(copy, ()))


@dataclass
class FakeRouter:
    """Routes in force, with the history of all of them."""

    faults: Faults = field(default_factory=Faults)
    traffic: Source = field(default_factory=Steady)
    routes: dict[str, Observed] = field(default_factory=dict)
    history: list[Observed] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    rejection: str = ""
    gap: str = ""
    is_unreadable: bool = False
    """Its counts cannot be read at present."""

    capabilities: frozenset[Capability] = frozenset(Capability)

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
        return self.faults.run(f"drain {copy}", lambda: self.in_flight.get(copy, 0))

    def counts(self, service: str, since: str | None, sessions: Sessions | None = None) -> Counts:
        if self.is_unreadable:
            raise RouterUnavailable("the access log cannot be read")
        found = self.faults.run(f"counts {service}", lambda: self.traffic.counts(service, since))
        return replace(found, gap=self.gap)

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
    warmed: list[tuple[str, int]] = field(default_factory=list)
    scores: dict[Arm, float | None] = field(default_factory=lambda: dict.fromkeys(Arm, -1.0))
    repeated: list[tuple[Arm, RecordedRequest]] = field(default_factory=list)
    interfaces: dict[Arm, frozenset[str]] = field(default_factory=dict)
    is_mute: bool = False
    """Nobody says what it offers."""

    def smoke(self, port: int, version: Version) -> SmokeReport:
        return self.router.faults.run("smoke", lambda: self._smoke(version))

    def _smoke(self, version: Version) -> SmokeReport:
        routed = self.router.routes[version.service].route.canary
        if routed is None or not self.fleet.ready(version.copy_name):
            raise ProbeFailed("no answer")
        if version.copy_name in self.wrong:
            return SmokeReport(passed=False, evidence="golden request 0: expected 'a', got 'b'")
        return SmokeReport(passed=True, evidence="8 golden requests")

    def warm_up(self, port: int, version: Version, count: int) -> None:
        if not self.fleet.ready(version.copy_name):
            raise ProbeFailed("no answer")
        self.router.faults.run("warm up", lambda: self.warmed.append((version.copy_name, count)))

    def score(self, port: int, arm: Arm, reference: ReferenceRequest) -> float | None:
        return self.scores[arm]

    def repeat(self, port: int, arm: Arm, request: RecordedRequest) -> None:
        self.repeated.append((arm, request))

    def interface(self, port: int, arm: Arm) -> frozenset[str]:
        if self.is_mute:
            raise ProbeFailed("/docs.json through the router: 503")
        return self.interfaces.get(arm, frozenset({"POST /v1/completions"}))

    def served(self, port: int) -> Served:
        return self.router.faults.run("served", lambda: self._served(port))

    def _served(self, port: int) -> Served:
        service = next(name for name, held in self.router.routes.items() if held.route.port == port)
        copy = self.router.receiver(service)
        if copy is None or not self.fleet.ready(copy):
            raise ProbeFailed("503")
        version = self.impostors.get(copy, self.fleet.copies[copy])
        return Served(version.bento_version, version.model.digest)
