"""Finish a rollout from a command when no controller does: the same looks, by whoever holds the controller's lock."""

from __future__ import annotations

import logging
import time

from pipelines import ledger
from pipelines.ledger import Rollout
from pipelines.release import adapters
from pipelines.release.controller import Controller
from pipelines.settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
SILENT_SECONDS = 10.0
"""A living controller beats every two seconds."""


def wait_for_end(rollout: Rollout, settings: Settings) -> Rollout:
    """Return a rollout's end. While no controller gives a sign of life, this process looks in its place.

    Raises:
        LedgerUnavailable: when the ledger goes away.
    """
    url = settings.ledger_url()
    begun = ledger.current_time(url)
    while not (rollout := ledger.read_rollout(url, rollout.id)).state.is_final:
        if ledger.silence_seconds(url, begun - SILENT_SECONDS) > SILENT_SECONDS:
            _look_until_the_end(rollout, settings)
        time.sleep(POLL_SECONDS)
    return rollout


def _look_until_the_end(rollout: Rollout, settings: Settings) -> None:
    url = settings.ledger_url()
    logger.warning("no controller gives a sign of life; this command does its work for %s", rollout.service)
    with ledger.controller_lock(url) as still_locked:
        controller = Controller(url, *adapters.connect(settings))
        while not ledger.read_rollout(url, rollout.id).state.is_final:
            still_locked()
            ledger.beat(url)
            if not controller.look(rollout.service):
                time.sleep(POLL_SECONDS)
