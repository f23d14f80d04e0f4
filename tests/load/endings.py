"""How the rollouts of a soak are to end, how they did, and the table of both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.release.ports import Served
from tests.load.client import Exchange


class Kind(StrEnum):
    """What is released."""

    SAME = "a-a"
    """The weights that serve, packaged again: one model as both arms."""

    BETTER = "better"
    """More training than what serves had, from another seed."""

    ERRORS = "errors"
    """The weights that serve; a second Envoy fails 20 % of the users' requests."""

    SLOW = "slow"
    """The weights that serve, and a service that waits before each answer."""

    WRONG_ANSWERS = "wrong-answers"
    """Hardly any training."""

    DIES = "dies"
    """The weights that serve; the copy is killed whenever it lives, from its first users on."""

    @property
    def is_good(self) -> bool:
        """Say whether it is to be promoted."""
        return self in (Kind.SAME, Kind.BETTER)


FOUND_BY = {
    Kind.ERRORS: "most of it from errors",
    Kind.SLOW: r"most of it from (headers|first_token|per_token)_p",
    Kind.WRONG_ANSWERS: "most of it from quality",
    Kind.DIES: "has not been ready for|most of it from errors",
}
"""What the reason of a rollback must say: found for another reason, a fault was not found."""

NO_VERSION = "none"


@dataclass(frozen=True)
class Ending:
    """How one rollout ended, and what its users and a question through the router say about it."""

    kind: Kind
    phase: Phase
    outcome: Outcome
    reason: str
    seconds: float
    weight: float
    """Highest share of the users that the candidate had, in percent."""

    num_requests: int
    num_by_candidate: int
    """Users' requests that the candidate answered."""

    failed: Mapping[str, int]
    """Users' requests that got no answer, by the version that the response names."""

    excused: int
    """Users' first attempts that failed at the candidate: its share of failures, before any was tried again."""

    served: str
    """What answered afterwards."""

    is_served_right: bool
    """It was the candidate after a good rollout, and the version from before after a bad one."""

    @property
    def expected(self) -> Phase:
        """Where it should have ended."""
        return Phase.PROMOTED if self.kind.is_good else Phase.ROLLED_BACK

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        found = []
        if self.phase is not self.expected:
            found.append(f"{self.phase} instead of {self.expected}: {self.reason}")
        elif not self.kind.is_good and not re.search(FOUND_BY[self.kind], self.reason):
            found.append(f"rolled back for another reason: {self.reason}")
        if not self.num_requests:
            found.append("no user sent a request")
        if (failed := sum(self.failed.values())) > self.excused:
            found.append(
                f"{failed} requests failed ({_by_version(self.failed)}), the candidate explains {self.excused}"
            )
        if not self.is_served_right:
            found.append(f"{self.served} serves")
        return found


def ending(
    kind: Kind, rollout: Rollout, *, weight: float, exchanges: Sequence[Exchange], served: Served, is_served_right: bool
) -> Ending:
    """Return the ending of a rollout.

    Args:
        kind: what was released.
        rollout: at its end.
        weight: highest that was confirmed, in percent.
        exchanges: its users' requests.
        served: what answered afterwards.
        is_served_right: whether that should.
    """
    version = rollout.candidate.bento_version
    _, excused = rollout.state.evidence.totals.get("canary/user", (0, 0))
    return Ending(
        kind=kind,
        phase=rollout.state.phase,
        outcome=rollout.state.outcome,
        reason=rollout.state.detail,
        seconds=(rollout.ended_at or rollout.opened_at) - rollout.opened_at,
        weight=weight,
        num_requests=len(exchanges),
        num_by_candidate=sum(exchange.is_good and exchange.version == version for exchange in exchanges),
        failed=Counter(exchange.version or NO_VERSION for exchange in exchanges if not exchange.is_good),
        excused=excused,
        served=str(served),
        is_served_right=is_served_right,
    )


def table(endings: Sequence[Ending]) -> str:
    """Return all endings, one per line, and under each what is wrong with it."""
    rows = [_HEAD, *(_row(number, each) for number, each in enumerate(endings, start=1))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    wrong = ["".join(f"\n    wrong: {problem}" for problem in each.problems()) for each in endings]
    return "\n".join([head, *map(str.__add__, lines, wrong)])


def total(endings: Sequence[Ending]) -> str:
    """Return what all of them add up to, on one line."""
    good = [each for each in endings if each.kind.is_good]
    promoted = sum(each.phase is Phase.PROMOTED for each in good)
    returned = sum(not each.kind.is_good and each.phase is Phase.ROLLED_BACK for each in endings)
    failed = sum(sum(each.failed.values()) for each in endings)
    return (
        f"{promoted} of {len(good)} good ones promoted, {returned} of {len(endings) - len(good)} bad ones rolled back, "
        f"{failed} of {sum(each.num_requests for each in endings)} users' requests failed"
    )


_HEAD = (
    "",
    "kind",
    "expected",
    "ended",
    "outcome",
    "highest",
    "seconds",
    "requests",
    "to it",
    "failed",
    "reason; serves then",
)


def _row(number: int, each: Ending) -> tuple[str, ...]:
    return (
        str(number),
        each.kind,
        each.expected,
        each.phase,
        each.outcome,
        f"{each.weight:g} %",
        f"{each.seconds:.0f}",
        str(each.num_requests),
        str(each.num_by_candidate),
        str(sum(each.failed.values())),
        f"{each.reason.partition(' (')[0]}; {each.served}",
    )


def _by_version(failed: Mapping[str, int]) -> str:
    return ", ".join(f"version {version}: {count}" for version, count in sorted(failed.items()))
