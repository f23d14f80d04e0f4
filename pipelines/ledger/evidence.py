"""What the looks of a rollout have shown so far, as plain numbers; `pipelines.release.evidence` computes them."""

from __future__ import annotations

from pydantic import Field

from pipelines.spec import Frozen


class Evidence(Frozen):
    """Everything that the next look needs to know of the looks before it."""

    looks: int = 0
    looked_at: float | None = None
    """Time of the last look that read counts, by the ledger's clock."""

    cursor: str | None = None
    """Where the router's counts go on; None: counting has not begun."""

    meters: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    """The services' own cumulative counters at the last look, by `arm/traffic` and name."""

    log_e: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Per metric: log of the rollback e-process for each ratio. Carried to a new rollout of the same two digests."""

    bets: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Per metric: log of the betting e-process for each bet, cumulative over the rollout."""

    full: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Per metric: log of the e-process for a bad rate above the limit, for each ratio, at 100 %."""

    split: tuple[float, ...] = ()
    """Log of the e-process that user traffic is divided otherwise than planned, at the present weight."""

    windows: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Per latency and traffic: stable's latest latencies, by bucket, older ones fading."""

    spreads: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    """Per latency metric and traffic: bad events and exposures of stable in its latest looks, for the design effect."""

    latency_since: float | None = None
    """When stable's latencies were first known from enough looks to be judged, by the ledger's clock."""

    mark: str = ""
    """Cursor at which the present weight was confirmed: only sessions that began after it count."""

    since: float | None = None
    """When the present weight was confirmed, by the ledger's clock."""

    exposures: int = 0
    """User exposures of the candidate at the present weight."""

    totals: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Exposures and bad ones since counting began, by `arm/traffic`, for people."""

    counted: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Router's and services' counts of the same requests at the present weight, by `arm/traffic`; see
    `pipelines.release.agreement`."""

    pairs: int = 0
    """Reference pairs that were taken into account."""

    held_seconds: float = 0.0
    """Time at the present weight without enough evidence; waits for a permit or a person are not in it."""

    unready_since: float | None = None
    """Since when the candidate's copy has not been ready; None: it is."""
