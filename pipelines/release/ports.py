"""What a release needs from the outside, as small protocols: copies that run, a router, and a look through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipelines.errors import SlipwayError
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.formats.requests import RecordedRequest, ReferenceRequest
from pipelines.ledger import Version

FULL_BP = 10_000
"""All user traffic, in basis points."""

LATENCY_BOUNDS_MS = tuple(round(1.1**power, 3) for power in range(130))
"""Upper bounds of the latency buckets, 1 ms to 4 minutes in steps of 10 %; one more bucket holds what is above."""


class Arm(StrEnum):
    """The two live copies during a rollout."""

    STABLE = "stable"
    CANARY = "canary"


class FleetError(SlipwayError):
    """A copy could not be started or stopped at present."""

    retryable = True


class RouterUnavailable(SlipwayError):
    """The router does not answer; what it was last told stays in force when it comes back."""

    retryable = True


@dataclass(frozen=True)
class Address:
    """Where a copy listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Target:
    """A copy as the router sees it."""

    copy: str
    address: Address


@dataclass(frozen=True)
class Split:
    """How user traffic is divided."""

    canary_bp: int = 0
    """Basis points that go to the canary; the others go to stable."""

    mirror_bp: int = 0
    """Basis points of user traffic that the canary gets a copy of; nobody waits for those answers."""


@dataclass(frozen=True)
class Route:
    """The desired state of one service's endpoint."""

    service: str
    port: int
    """Port of the endpoint."""

    stable: Target | None
    """Copy of the version in production; None before the first release."""

    canary: Target | None
    """Copy of the candidate; requests with the pin header reach it at any weight."""

    split: Split = Split()
    is_idempotent: bool = False
    """Whether a request may be sent again after a failed attempt."""

    session_header: str = ""
    """Header whose value keeps a user with one version while the weight stays; empty: no affinity."""

    silence_seconds: int = 120
    """How long a copy may be silent in the middle of an answer."""


@dataclass(frozen=True)
class Tally:
    """What one arm did in one kind of traffic."""

    exposures: int = 0
    """Completed requests, or sessions when the route has a session header and the traffic is users'."""

    bad: int = 0
    """Exposures whose first attempt failed (an error, a refusal for overload, no answer), whatever a retry brought, or
    whose stream broke after its headers; each counted at most once."""

    latency: tuple[int, ...] = ()
    """Exposures by time to the response's headers, per bucket of `LATENCY_BOUNDS_MS` and one above. A first attempt
    without headers is not in it; a user who left before the headers is in it alone, with the time it waited."""


@dataclass(frozen=True)
class Sessions:
    """How sessions are counted."""

    after: str
    """Cursor; only sessions whose first request began after it count."""

    window_seconds: float
    """A session is scored once, over its first so many seconds, in the counts in which they are over."""


@dataclass(frozen=True)
class Counts:
    """What happened at an endpoint since a cursor, both arms read at one moment."""

    cursor: str
    """Where the next reading goes on."""

    tallies: Mapping[tuple[Arm, Traffic], Tally] = field(default_factory=dict)
    gap: str = ""
    """Why the counts since the cursor are incomplete (the router began anew, say); they must not be used then."""


@dataclass(frozen=True)
class Observed:
    """What the router really does."""

    route: Route
    generation: int
    """Fencing token with which the route was asked for."""


class Capability(StrEnum):
    """What a router may or may not be able to do."""

    MIRROR = "mirror"
    COUNTS = "counts"
    """Counts what both arms do: without it, they cannot be compared under traffic."""

    SESSIONS = "sessions"
    """Keeps a session with one version, and counts sessions."""


class Fleet(Protocol):
    """The copies of bentos. All verbs are idempotent."""

    def start(self, version: Version) -> Address:
        """Start a version's copy unless it is started, and say where it listens; it need not be ready yet.

        Raises:
            ArtifactMissing, ArtifactCorrupt: when the bento is not what its digest says; nothing is started.
            FleetError: when it cannot be started at present.
        """

    def stop(self, copy: str) -> None:
        """Stop a copy with all its processes; its port is free afterwards.

        Raises:
            FleetError: when something of it is left.
        """

    def ready(self, copy: str) -> bool:
        """Say whether a copy answers that it is ready."""

    def list(self, service: str | None = None) -> frozenset[str]:
        """Return the copies that are started, of one service or of all."""

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        """Return what a copy has counted since it began, per kind of traffic.

        Raises:
            FleetError: when it cannot be asked.
        """

    def recorded(self, copy: str) -> Sequence[RecordedRequest]:
        """Return the requests of users that a copy has kept, redacted; none when it keeps none."""


class Router(Protocol):
    """The endpoint of every service. Desired state in, observed state out."""

    def free_ports(self) -> Iterable[int]:
        """Yield ports on which an endpoint could listen."""

    def apply(self, route: Route, generation: int) -> None:
        """Make a route the service's, and return when it is in force. Applying it again changes nothing.

        Raises:
            RouterRejected: when the router keeps the old route, with its reason; or the generation is older than the
                last accepted one.
            RouterUnavailable: when the router does not answer.
        """

    def observe(self, service: str) -> Observed | None:
        """Return what is in force for a service, or None when the router does not know it."""

    def drain(self, service: str, copy: str) -> int:
        """Return how many requests a copy still answers; it gets no new ones once its weight is 0."""

    def counts(self, service: str, since: str | None, sessions: Sessions | None = None) -> Counts:
        """Return what happened since a cursor; with None, nothing but the cursor of this moment.

        Reading the same cursor again gives at least what it gave before: a look that was lost loses no count.

        Raises:
            RouterUnavailable: when the counts cannot be read.
        """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this router can do besides splitting traffic."""


@dataclass(frozen=True)
class Served:
    """What answered a request, by its own response headers."""

    version: str
    digest: str

    def __str__(self) -> str:
        return f"version {self.version}, digest {self.digest[:12]}"

    def is_of(self, version: Version) -> bool:
        """Say whether this version answered: its code and its weights."""
        return self.version == version.bento_version and self.digest == version.model.digest


@dataclass(frozen=True)
class SmokeReport:
    """What the golden requests showed."""

    passed: bool
    evidence: str


class Probe(Protocol):
    """Requests through the router, as its users send them."""

    def smoke(self, port: int, version: Version) -> SmokeReport:
        """Send a version's golden requests to the canary and compare the answers.

        Raises:
            ProbeFailed: when an answer did not come; it says nothing about the weights.
        """

    def warm_up(self, port: int, version: Version, count: int) -> None:
        """Send so many requests to the canary and wait for the answers.

        Raises:
            ProbeFailed: when an answer did not come.
        """

    def score(self, port: int, arm: Arm, reference: ReferenceRequest) -> float | None:
        """Return the log-probability that an arm gives a reference's continuation, in nats per byte of its text.

        Bytes, not tokens: two versions may have different tokenizers. None: the answer was invalid.

        Raises:
            ProbeFailed: when no answer came.
        """

    def repeat(self, port: int, arm: Arm, request: RecordedRequest) -> None:
        """Send a recorded request to an arm and wait for the end of its answer.

        An error is an answer as well: router and service count it, and nobody else reads it.

        Raises:
            ProbeFailed: when no answer came.
        """

    def interface(self, port: int, arm: Arm) -> frozenset[str]:
        """Return what an arm offers to its clients: every endpoint, and every field of every answer.

        Raises:
            ProbeFailed: when no answer came.
        """

    def served(self, port: int) -> Served:
        """Ask as a user and return who answered.

        Raises:
            ProbeFailed: when nobody did.
        """


class ProbeFailed(SlipwayError):
    """A request through the router was not answered."""

    retryable = True
