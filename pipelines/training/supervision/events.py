"""What befell a training: restarts, hangs, incidents; one JSON line each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.spec import Frozen


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


def append_event(file: Path, event: Event) -> None:
    """Write an event to the end of a file; whoever follows the file sees whole lines."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(event.model_dump_json() + "\n")


def read_events(file: Path) -> list[Event]:
    """Return the events in a file."""
    return [*parse_events(file.read_text(encoding="utf-8").splitlines())] if file.is_file() else []


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of whole lines."""
    for line in lines:
        try:
            yield Event.model_validate_json(line)
        except ValidationError:
            return
