"""What a release needs from the outside, as small protocols: copies that run, a router, and a look through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pipelines.errors import SlipwayError
from pipelines.ledger import Version

FULL_BP = 10_000
"""All user traffic, in basis points."""


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


@dataclass(frozen=True)
class Observed:
    """What the router really does."""

    route: Route
    generation: int
    """Fencing token with which the route was asked for."""


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

    def served(self, port: int) -> Served:
        """Ask as a user and return who answered.

        Raises:
            ProbeFailed: when nobody did.
        """


class ProbeFailed(SlipwayError):
    """A request through the router was not answered."""

    retryable = True
