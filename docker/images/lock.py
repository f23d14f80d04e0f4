"""The part of the lock that one image needs: its roots and, by the lock's own `via` notes, whatever they bring."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>\S+)", re.IGNORECASE)
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?P<parent>[a-z0-9][a-z0-9._-]*)(?:\s|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Pin:
    """One pinned distribution and which others ask for it."""

    name: str
    version: str
    parents: frozenset[str]

    def __str__(self) -> str:
        """Return the requirement."""
        return f"{self.name}=={self.version}"


def parse(text: str) -> dict[str, Pin]:
    """Return the pins of a lock by distribution."""
    pins: dict[str, Pin] = {}
    name = version = ""
    parents: set[str] = set()
    for line in [*text.splitlines(), "end==0"]:
        if found := _PIN.match(line):
            if name:
                pins[name] = Pin(name, version, frozenset(parents))
            name, version, parents = found["name"].lower(), found["version"], set()
        elif found := _VIA.match(line):
            parents.add(found["parent"].lower())
    return pins


def part(pins: dict[str, Pin], roots: Iterable[str]) -> list[Pin]:
    """Return what `roots` need, sorted by name; what only an extra brings counts as needed.

    Raises:
        KeyError: when the lock has no such root.
    """
    wanted = {name: pins[name] for name in roots}
    while more := {pin.name: pin for pin in pins.values() if pin.name not in wanted and pin.parents & wanted.keys()}:
        wanted |= more
    return [wanted[name] for name in sorted(wanted)]
