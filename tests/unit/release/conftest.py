"""Worlds on a ledger of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.release.sqlite_ledger import new_ledger
from tests.unit.release.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an empty world."""
    return World(new_ledger(tmp_path / "ledger.db"))
