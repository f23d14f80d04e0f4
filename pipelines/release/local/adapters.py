"""What stands behind the ports on one machine."""

from __future__ import annotations

import functools
from typing import NamedTuple

from pipelines.release.local.fleet import SupervisorFleet
from pipelines.release.local.router import EnvoyRouter
from pipelines.release.ports import Fleet, Probe, Router
from pipelines.release.probe import HttpProbe
from pipelines.settings import Settings
from pipelines.store import Store


class Adapters(NamedTuple):
    """Everything that a release acts through."""

    fleet: Fleet
    router: Router
    probe: Probe


@functools.cache
def connect(settings: Settings) -> Adapters:
    """Return the adapters of an installation; nothing is asked before the first use."""
    return Adapters(SupervisorFleet(settings), EnvoyRouter(settings), HttpProbe(Store(settings.store_url())))
