"""Section about backups."""

from __future__ import annotations

from pydantic import Field

from pipelines.spec.base import Frozen


class BackupConfig(Frozen):
    """When the installation is saved for this model's sake, and how long. The scheduled backup saves every model."""

    enabled: bool = True
    """Whether the installation is saved before each of this model's rollouts."""

    keep_last: int = Field(default=7, ge=1, le=10_000)
    """Newest backups that are kept, however old. Of several models' values the largest counts."""

    keep_days: int = Field(default=30, ge=0, le=36_500)
    """Younger backups are kept, however many. Of several models' values the largest counts."""
