"""What befell a training: restarts, hangs, incidents; one JSON line each."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from pipelines.spec import Frozen
from pipelines.training.files import read_lines


class EventKind(StrEnum):
    """What happened."""

    RESUMPTION = "resumption"
    DAMAGE = "damage"
    """A checkpoint that could not be used."""

    RESTART = "restart"
    HANG = "hang"
    INCIDENT = "incident"
    """A loss or gradient that was not finite, or a loss that jumped."""


class Event(Frozen):
    """One thing that happened."""

    kind: EventKind
    step: int
    """Optimizer steps done."""

    text: str
    """In words, for people."""

    at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""


def read_events(file: Path) -> list[Event]:
    """Return the events in a file."""
    return read_lines(file, Event)
