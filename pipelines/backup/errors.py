"""What can be wrong with a backup, or with the place where it is to be restored."""

from __future__ import annotations

from pipelines.errors import SlipwayError


class BackupDamaged(SlipwayError):
    """A backup has missing, changed or exchanged bytes; nothing of it is restored."""


class BackupMissing(SlipwayError):
    """There is no such backup."""


class RestoreRefused(SlipwayError):
    """A sound backup may not be restored here, or is not the one that was asked for; nothing was written."""


class DumpFailed(SlipwayError):
    """A database could not be dumped or restored for a reason that stays."""


class DatabaseAway(SlipwayError):
    """A database could not be reached, or broke off; it may come back."""

    retryable = True
