"""What a service could return to, as a small file for forms: reading it needs no database and no network.

It is a hint. It may be old, missing or damaged; whoever takes an order asks the ledger what is true.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipelines.spec import Frozen

MAX_BYTES = 2**20
"""A larger file is none of ours; it is read each time that Airflow parses a DAG file."""

LAST_MOMENT = 253_402_300_799.0
"""End of the year 9999, in seconds since the epoch: what calendars can say."""

Number = Annotated[int, Field(ge=1, le=10**9)]


class ServedVersion(Frozen):
    """A version that was in production."""

    number: Number
    since: float = Field(ge=0.0, le=LAST_MOMENT, allow_inf_nan=False)
    """When it was last promoted, in seconds since the epoch."""


class KnownBackup(Frozen):
    """A backup that holds a version of the service as the one in production."""

    name: str = Field(pattern=r"^[0-9A-Za-z._-]{1,60}$")
    version: Number


class Offers(Frozen):
    """What one service could return to, the latest first."""

    serving: Number | None = None
    """Number of the version in production; returning to it changes nothing."""

    versions: tuple[ServedVersion, ...] = ()
    backups: tuple[KnownBackup, ...] = ()


class ReleaseCatalog(Frozen):
    """What every service could return to."""

    format: Literal[1] = 1
    services: dict[str, Offers] = Field(default_factory=dict)


def catalog_path(home: Path) -> Path:
    """Return where a home's catalog is."""
    return home / "catalog" / "releases.json"


def read_catalog(home: Path) -> ReleaseCatalog | None:
    """Return a home's catalog, or None when there is none that can be read."""
    try:
        with catalog_path(home).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        return None if len(data) > MAX_BYTES else ReleaseCatalog.model_validate_json(data)
    except (OSError, ValueError):
        return None


def write_catalog(home: Path, catalog: ReleaseCatalog) -> bool:
    """Make a catalog the home's, for readers at once or not at all; return whether it differs from the one before.

    Raises:
        OSError: when it cannot be written; the one before is still there.
    """
    if read_catalog(home) == catalog:
        return False
    path = catalog_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(f"{catalog.model_dump_json(indent=1)}\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
