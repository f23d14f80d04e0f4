"""What stands behind the ports, on the platform that the settings name."""

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
    if settings.platform == "kubernetes":
        return _on_kubernetes(settings)
    return Adapters(SupervisorFleet(settings), EnvoyRouter(settings), HttpProbe(Store(settings.store_url())))


def _on_kubernetes(settings: Settings) -> Adapters:
    from pipelines.release.kubernetes.cluster import Cluster
    from pipelines.release.kubernetes.fleet import KubernetesFleet
    from pipelines.release.kubernetes.gateway import Gateway
    from pipelines.release.kubernetes.router import HttpRouteRouter
    from pipelines.release.kubernetes.transport import GatewayTransport

    cluster = Cluster(settings)
    gateway = Gateway(settings, cluster)
    probe = HttpProbe(Store(settings.store_url()), GatewayTransport(settings.ledger_url(), gateway))
    return Adapters(KubernetesFleet(settings, cluster, gateway), HttpRouteRouter(settings, cluster, gateway), probe)
