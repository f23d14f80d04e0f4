"""Take a reading: what router and services counted since the last look, turned into exposures and bad events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipelines import ledger
from pipelines.errors import SlipwayError
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.ledger import Pair, Rollout
from pipelines.release.ports import Arm, Counts, Fleet, Router, RouterUnavailable, Sessions, Tally
from pipelines.release.reading import STABLE_OF, Compared, Counted, Latencies, Reading

MIN_SEEN = 20
"""Good requests in one look of which a copy must have counted at least one itself."""

Meters = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass
class _Service:
    """What the two copies counted themselves since the last look."""

    now: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    since: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    problem: str = ""
    is_anew: bool = False
    """Some requests are in none of the differences: a copy was read for the first time, or its counters began anew."""


def take_reading(rollout: Rollout, now: float, *, url: str, fleet: Fleet, router: Router) -> Reading:
    """Read both arms at one moment. What could not be read is left out, and said: it holds the rollout.

    Args:
        rollout: under traffic, with a stable version.
        now: by the ledger's clock.
        url: the ledger, for the pairs that the replayer scored.
        fleet: for the services' own counters.
        router: for the requests.
    """
    evidence = rollout.state.evidence
    is_ready = fleet.ready(rollout.candidate.copy_name)
    counted = _router_counts(rollout, router)
    service = _service_counts(rollout, fleet, evidence.meters)
    is_anew = service.is_anew or bool(counted.gap and counted.cursor)
    pairs = _pairs(url, rollout)
    worse = [_worse_arm(pair, rollout.config.quality.margin) for pair in pairs]
    return Reading(
        at=now,
        cursor=counted.cursor or evidence.cursor,
        meters=service.now,
        failures=_failures(counted, rollout),
        invalid=_invalid(service.since, rollout),
        latencies={**_router_latencies(counted, rollout), **_service_latencies(service.since, rollout)},
        counted={} if is_anew else _by_both(counted, service, rollout),
        is_anew=is_anew,
        pairs=len(pairs),
        canary_worse=worse.count(Arm.CANARY),
        stable_worse=worse.count(Arm.STABLE),
        is_ready=is_ready,
        hold=counted.gap or service.problem or _standing_still(counted, service, rollout),
    )


def _router_counts(rollout: Rollout, router: Router) -> Counts:
    evidence, config = rollout.state.evidence, rollout.config
    sessions = Sessions(evidence.mark, config.session_window_seconds) if config.session_header else None
    try:
        return router.counts(rollout.service, evidence.cursor, sessions)
    except RouterUnavailable as error:
        return Counts(cursor="", gap=str(error))


def _failures(counted: Counts, rollout: Rollout) -> dict[Traffic, Compared]:
    return {
        traffic: Compared(
            canary=canary.exposures, canary_bad=canary.bad, stable=stable.exposures, stable_bad=stable.bad
        )
        for traffic, canary, stable in _compared(counted, rollout)
        if canary.exposures or (stable.exposures and traffic is not Traffic.SHADOW)
    }


def _router_latencies(counted: Counts, rollout: Rollout) -> dict[str, Latencies]:
    return {
        f"headers/{traffic}": Latencies(canary=_sparse(canary.latency), stable=_sparse(stable.latency))
        for traffic, canary, stable in _compared(counted, rollout)
        if any(canary.latency) or (any(stable.latency) and traffic is not Traffic.SHADOW)
    }


def _compared(counted: Counts, rollout: Rollout) -> Iterator[tuple[Traffic, Tally, Tally]]:
    """Yield each stratum with what the router counted of canary and of stable in it; after a gap, none."""
    for traffic, of_stable in () if counted.gap else STABLE_OF.items():
        stable = counted.tallies.get((Arm.STABLE, of_stable), Tally())
        if traffic is Traffic.SHADOW and rollout.config.session_header:
            stable = Tally()  # stable's users are counted by session: nothing that mirrored requests compare with
        yield traffic, counted.tallies.get((Arm.CANARY, traffic), Tally()), stable


def _service_counts(rollout: Rollout, fleet: Fleet, before: Meters) -> _Service:
    """Read both services' counters and subtract the last look's; a counter that fell began anew with its process."""
    found = _Service()
    for arm, version in ((Arm.CANARY, rollout.candidate), (Arm.STABLE, rollout.stable)):
        if version is None:
            continue
        try:
            counters = fleet.meter(version.copy_name)
        except SlipwayError as error:
            found.problem = f"the counters of {arm} cannot be read: {error}"
            continue
        for traffic, values in counters.items():
            key, flat = f"{arm}/{traffic}", _flat(values)
            found.now[key] = flat
            if not any(known.startswith(f"{arm}/") for known in before):
                found.is_anew = True
                continue  # the first look: a baseline, and nothing to subtract from
            old = before.get(key, {})
            try:
                since = {name: _difference(counts, old.get(name, ())) for name, counts in flat.items()}
            except ValueError:
                found.problem, found.is_anew = f"the counters of {arm} began anew", True
                continue
            answered, invalid = since["answers"]
            if invalid > answered:  # read in the middle of an answer; the next look has both
                found.problem, found.now[key] = f"the counters of {arm} do not agree with each other", dict(old)
                continue
            found.since[key] = since
    return found


def _by_both(counted: Counts, service: _Service, rollout: Rollout) -> dict[str, Counted]:
    """Return what router and services counted of the same requests; a side that cannot be read now catches up later.

    Users' requests are left out where their sessions are counted.
    """
    tallies = {} if counted.gap else {f"{arm}/{traffic}": tally for (arm, traffic), tally in counted.tallies.items()}
    found = {}
    for key in sorted(rollout.state.evidence.meters.keys() | service.since.keys()):
        if key.endswith(f"/{Traffic.USER}") and rollout.config.session_header:
            continue
        tally = tallies.get(key, Tally())
        (requests,) = service.since.get(key, {}).get("requests", (0,))
        left = max(0, sum(tally.latency) - (tally.exposures - tally.bad))
        if tally.exposures or left or requests:
            found[key] = Counted(exposures=tally.exposures, bad=tally.bad, left=left, requests=requests)
    return found


def _standing_still(counted: Counts, service: _Service, rollout: Rollout) -> str:
    """Return whose counters stand still although the router sees its requests: stale metrics are no evidence."""
    for (arm, traffic), tally in counted.tallies.items():
        told = service.since.get(f"{arm}/{traffic}")
        if told is None or (traffic is Traffic.USER and rollout.config.session_header):
            continue
        if tally.exposures - tally.bad >= MIN_SEEN and not any(told["requests"]):
            return f"the counters of {arm} stand still, but the router saw {tally.exposures} of its requests"
    return ""


def _flat(counters: ServiceCounters) -> dict[str, tuple[int, ...]]:
    return {
        "requests": (counters.requests,),
        "answers": (counters.answered, counters.invalid),
        "first_token": tuple(counters.time_to_first_token.counts),
        "per_token": tuple(counters.time_per_output_token.counts),
    }


def _difference(now: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    """Return how much each counter rose.

    Raises:
        ValueError: when one fell.
    """
    rises = tuple(new - old for new, old in zip(now, before or (0,) * len(now), strict=True))
    if any(rise < 0 for rise in rises):
        raise ValueError("a counter fell")
    return rises


def _strata(since: Meters, rollout: Rollout, name: str) -> dict[Traffic, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return what both services counted under a name; users' requests are no unit where sessions are."""
    found = {}
    for traffic, of_stable in STABLE_OF.items():
        if traffic is Traffic.USER and rollout.config.session_header:
            continue
        canary = since.get(f"{Arm.CANARY}/{traffic}", {}).get(name, ())
        stable = since.get(f"{Arm.STABLE}/{of_stable}", {}).get(name, ())
        if any(canary) or (any(stable) and traffic is not Traffic.SHADOW):
            found[traffic] = (canary, stable)
    return found


def _invalid(since: Meters, rollout: Rollout) -> dict[Traffic, Compared]:
    found = {}
    for traffic, (canary, stable) in _strata(since, rollout, "answers").items():
        (canary_n, canary_bad), (stable_n, stable_bad) = canary or (0, 0), stable or (0, 0)
        found[traffic] = Compared(canary=canary_n, canary_bad=canary_bad, stable=stable_n, stable_bad=stable_bad)
    return found


def _service_latencies(since: Meters, rollout: Rollout) -> dict[str, Latencies]:
    return {
        f"{name}/{traffic}": Latencies(canary=_sparse(canary), stable=_sparse(stable))
        for name in ("first_token", "per_token")
        for traffic, (canary, stable) in _strata(since, rollout, name).items()
    }


def _sparse(buckets: tuple[int, ...]) -> dict[int, int]:
    return {index: count for index, count in enumerate(buckets) if count}


def _pairs(url: str, rollout: Rollout) -> list[Pair]:
    if rollout.stable is None or not rollout.config.quality.enabled:
        return []
    skip = rollout.state.evidence.pairs
    return ledger.list_pairs(url, rollout.service, rollout.stable.model, rollout.candidate.model, skip)


def _worse_arm(pair: Pair, margin: float) -> Arm | None:
    """Return the arm that did worse on a reference; two failures, or a difference within the margin, say nothing."""
    stable, candidate = (-math.inf if score is None else score for score in (pair.stable_score, pair.candidate_score))
    if stable == candidate or abs(stable - candidate) <= margin:
        return None
    return Arm.CANARY if candidate < stable else Arm.STABLE
