"""What is simulated: settings in which the canary is as good as stable, and settings in which it is worse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

LOOK_SECONDS = 10
DAY_MINUTES = 24 * 60


class Metric(StrEnum):
    """What is counted as bad."""

    ERRORS = "errors"
    LATENCY = "latency"


class Unit(StrEnum):
    """What is counted once."""

    REQUEST = "request"
    SESSION = "session"


@dataclass(frozen=True)
class Bursts:
    """A process that is slow for a while, by itself: garbage collection, batches, a noisy neighbour."""

    every_seconds: float
    last_seconds: float
    factor: float = 3.0
    """By how much latency rises in a burst."""


@dataclass(frozen=True)
class Incident:
    """Something that hits both arms for a while: a database that is slow, a bad client."""

    start_minute: int = 10
    end_minute: int = 15
    error_rate: float = 0.2
    latency_factor: float = 3.0


@dataclass(frozen=True)
class Scenario:
    """One row of the table: one metric, one stratum, one weight."""

    metric: Metric
    weight: float = 0.25
    error_rate: float = 0.001
    """Stable's."""

    worse: float = 1.0
    """Canary's error rate, or its latency, as a multiple of stable's; 1 is an A/A comparison."""

    minutes: int = 30
    look_seconds: int = LOOK_SECONDS
    requests_per_second: float = 20.0
    diurnal: float = 0.0
    """Amplitude of the daily wave of traffic, as a share of its mean."""

    bursts: Bursts | None = None
    incident: Incident | None = None
    clustered: bool = False
    """Errors hit whole sessions: each request of a session of 20 fails, or none."""

    unit: Unit = Unit.REQUEST
    tau: float = 1.0
    latency_margin: float = 0.0
    design_effect: bool = True
    history_minutes: int = 5
    """For how long stable's latency was watched before the first comparison, after one minute for the thresholds."""

    @property
    def looks_per_minute(self) -> int:
        return 60 // self.look_seconds


ERRORS = Scenario(Metric.ERRORS)
LATENCY = Scenario(Metric.LATENCY)
SESSIONS = replace(ERRORS, clustered=True, error_rate=0.005)
WEIGHTS = (0.05, 0.25, 0.5)

SHORT_BURSTS = Bursts(every_seconds=30.0, last_seconds=3.0)
LONG_BURSTS = Bursts(every_seconds=200.0, last_seconds=20.0)
IN_BURSTS = replace(LATENCY, bursts=SHORT_BURSTS)


def at_weights(name: str, scenario: Scenario) -> dict[str, Scenario]:
    """Return a scenario at each weight, by name."""
    return {f"{name}, at {weight:.0%}": replace(scenario, weight=weight) for weight in WEIGHTS}


def day(scenario: Scenario) -> Scenario:
    """Return a scenario that lasts a whole day, with a look a minute and five times as much traffic by day as by night.

    Looks a minute apart say the same as the sum of those within it.
    """
    return replace(scenario, minutes=DAY_MINUTES, look_seconds=60, diurnal=2.0 / 3.0)


def alike() -> dict[str, Scenario]:
    """Return the A/A settings by name: every rollback in them is a false one."""
    return {
        **at_weights("errors, 0.1 % on both", ERRORS),
        **at_weights("errors, 1 % on both", replace(ERRORS, error_rate=0.01)),
        **at_weights("failing sessions, sessions counted", replace(SESSIONS, unit=Unit.SESSION)),
        **at_weights("latency", LATENCY),
        **at_weights("latency in bursts of 3 s", IN_BURSTS),
        "errors, incident on both arms, at 25%": replace(ERRORS, incident=Incident()),
        "latency, incident on both arms, at 25%": replace(LATENCY, incident=Incident()),
        "errors, 24 h with a daily wave, at 25%": day(ERRORS),
        "latency, 24 h with a daily wave, at 25%": day(LATENCY),
    }


def limits() -> dict[str, Scenario]:
    """Return A/A settings outside the bar: with a protection off, or harder than the rule is made for."""
    half = replace(IN_BURSTS, weight=0.5)
    longer = replace(half, bursts=LONG_BURSTS)
    return {
        **at_weights("failing sessions, requests counted", SESSIONS),
        "latency in bursts of 3 s, no design effect, at 50%": replace(half, design_effect=False),
        "latency in bursts of 3 s, stable known for 1 min, at 50%": replace(half, history_minutes=1),
        "latency in bursts of 20 s, at 50%": longer,
        "latency in bursts of 20 s, stable known for 30 min, at 50%": replace(longer, history_minutes=30),
    }


def worse() -> dict[str, Scenario]:
    """Return the settings in which the canary is worse, by name."""
    product = {"tau": 1.1, "latency_margin": 0.25}
    return {
        **at_weights("errors 0.1 to 5 %", replace(ERRORS, worse=50.0)),
        **at_weights("errors 0.1 to 1 %", replace(ERRORS, worse=10.0)),
        **at_weights("latency x2", replace(LATENCY, worse=2.0)),
        "errors 0.1 to 5 %, the product's defaults, at 25%": replace(ERRORS, worse=50.0, **product),
        "latency x2, the product's defaults, at 25%": replace(LATENCY, worse=2.0, **product),
        "latency x2 in bursts of 3 s, the product's defaults, at 25%": replace(IN_BURSTS, worse=2.0, **product),
    }
