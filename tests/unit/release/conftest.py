"""Worlds on a ledger of their own."""

from __future__ import annotations

import pytest

from tests.unit.release.sqlite_ledger import Clock, new_ledger
from tests.unit.release.world import World


@pytest.fixture
def world() -> World:
    """Return an empty world, whose clock only the test moves."""
    clock = Clock()
    return World(new_ledger(clock=clock), clock=clock)
