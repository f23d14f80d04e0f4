"""Whether the copies counted the requests that the router saw: counts that miss some of them are no evidence.

A copy's own counts (validity, time to first token, time per output token) are compared between the arms, so a copy
must not miss requests that the other one counts. The router's exposures say how many there were. The two sides never
count quite the same, for good reasons, each of which is allowed for:

- **in flight**: the two are read one after the other, and the router writes a request down a moment after its end. What
  that shifts is at most what one look brought.
- **first attempts that failed** may never have reached the copy, or may have been tried again, by stable too.
- **users who left before the headers** are no exposures, but the copy may count them.
- **requests that generate nothing** (the list of models, an unknown path) are exposures that a copy does not count. How
  many there are is the users' affair, and their share is the same in both arms up to chance: a request's arm is drawn.

So the bounds within which the share of uncounted requests lies are compared between the arms, at one weight: the share
may change with the time of day, and with it the mean over weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from pipelines.formats.headers import Traffic
from pipelines.release.ports import Arm
from pipelines.release.reading import STABLE_OF, Counted, Reading

MAX_DIFFERENCE = 0.02
"""Share of an arm's requests by which the two sides may differ beyond what the other arm shows."""

MIN_COMPARED = 200
"""Fewest exposures of each arm; with fewer, chance and what is in flight say more than the copies."""

MAX_DEVIATIONS = 4.0
"""Standard deviations of a difference by chance that are allowed for."""

MAX_RETRIES = 3
"""How often a failed attempt is tried again, at most."""

Totals = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Total:
    """What both sides counted of one copy's requests in one kind of traffic, at one weight."""

    exposures: int = 0
    bad: int = 0
    left: int = 0
    requests: int = 0
    largest: int = 0
    """The most that one look brought to either side: what the two sides may differ by at any moment."""

    def plus(self, seen: Counted) -> _Total:
        return _Total(
            self.exposures + seen.exposures,
            self.bad + seen.bad,
            self.left + seen.left,
            self.requests + seen.requests,
            max(self.largest, seen.exposures + seen.left, seen.requests),
        )

    def uncounted(self, moved: int = 0) -> tuple[float, float]:
        """Return the bounds of the share of requests that the copy does not count.

        Args:
            moved: attempts of the other arm's requests that this copy may have got.
        """
        least = self.exposures - self.bad - self.requests - self.largest
        most = self.exposures + self.left + MAX_RETRIES * self.bad + moved - self.requests + self.largest
        return least / self.exposures, most / self.exposures


def added(totals: Totals, reading: Reading) -> dict[str, tuple[int, ...]]:
    """Return the totals after a reading; they begin anew with any count that does."""
    if reading.is_anew:
        return {}
    sums = {key: _Total(*values) for key, values in totals.items()}
    sums.update({key: sums.get(key, _Total()).plus(seen) for key, seen in reading.counted.items()})
    return {key: astuple(total) for key, total in sums.items()}


def disagreement(totals: Totals) -> str:
    """Return which copy misses requests that the other counts, or counts too many; empty when all is well."""
    sums = {key: _Total(*values) for key, values in totals.items()}
    moved = MAX_RETRIES * sums.get(f"{Arm.CANARY}/{Traffic.USER}", _Total()).bad  # stable answers them
    for traffic, of_stable in STABLE_OF.items():
        canary = sums.get(f"{Arm.CANARY}/{traffic}", _Total())
        stable = sums.get(f"{Arm.STABLE}/{of_stable}", _Total())
        if min(canary.exposures, stable.exposures) < MIN_COMPARED:
            continue
        bounds = canary.uncounted(), stable.uncounted(moved if of_stable is Traffic.USER else 0)
        if _gap(*bounds) > MAX_DIFFERENCE + _by_chance(canary, stable, *bounds):
            return (
                f"of {traffic} requests canary counted {canary.requests} itself and the router {canary.exposures}; "
                f"stable {stable.requests} and {stable.exposures}: one of the copies does not tell all"
            )
    return ""


def _gap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(one[0] - other[1], other[0] - one[1])


def _by_chance(canary: _Total, stable: _Total, *bounds: tuple[float, float]) -> float:
    """Return by how much the shares may differ by chance: each request that is not counted drew its arm."""
    middle = sum(map(sum, bounds)) / (2 * len(bounds))
    share = min(max(middle, 0.0), 1.0)
    return MAX_DEVIATIONS * math.sqrt(share * (1.0 - share) * (1.0 / canary.exposures + 1.0 / stable.exposures))
