"""What tests of backups share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.backup.saved import Saved


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return an installation without a backup."""
    return Saved(tmp_path / "installation")
