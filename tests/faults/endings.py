"""How schedules of failures ended, told at the end of a session, by what failed in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.cluster import Fault

ENDED, FAULTS, REAPED = "ended", "faults", "reaped"
"""Properties of a test that ran a schedule: the task's last state, what failed, and what was left to the reaper."""

NOTHING = "nothing"
_STATES = ("success", "failed")


def table(reports: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how many schedules ended how, in all and for each kind of failure; nothing when none ran.

    Args:
        reports: properties of the tests that ran.
    """
    schedules = [properties for properties in reports if ENDED in properties]
    if not schedules:
        return []
    by_kind = {kind: [row for row in schedules if kind in _kinds(row)] for kind in (*Fault, NOTHING)}
    return [
        _line("", "schedules", *_STATES, REAPED),
        *(_told(*row) for row in {**by_kind, "in all": schedules}.items()),
    ]


def _kinds(schedule: Mapping[str, Any]) -> list[str]:
    kinds: list[str] = schedule[FAULTS]
    return kinds or [NOTHING]


def _told(name: str, schedules: list[Mapping[str, Any]]) -> str:
    states = Counter(row[ENDED] for row in schedules)
    reaped = sum(bool(row.get(REAPED)) for row in schedules)
    return _line(name, len(schedules), *(states[state] for state in _STATES), reaped)


def _line(name: str, *columns: object) -> str:
    return f"{name:14}" + "".join(f"{column!s:>11}" for column in columns)
