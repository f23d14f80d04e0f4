"""The Gateway of an overlay: does somebody work it, and is it reached from here?"""

from __future__ import annotations

import socket
from typing import Any

from pipelines.errors import BadInput
from pipelines.release.kubernetes.cluster import GATEWAY, GATEWAY_CLASS, Cluster, ClusterRefused
from pipelines.release.kubernetes.gateway import Gateway
from pipelines.release.ports import Address
from pipelines.settings import Settings
from tests.e2e_k8s.waiting import comes_true

Body = dict[str, Any]

ACCEPT_SECONDS = 30.0
"""How long a controller that is there may take to accept its GatewayClass."""

PROGRAM_SECONDS = 300.0
"""How long the proxies of a new Gateway may take: their image may have to be pulled."""

CONNECT_SECONDS = 5.0


def is_worked(cluster: Cluster, gateway_class: str, seconds: float = ACCEPT_SECONDS) -> bool:
    """Return whether somebody has accepted a GatewayClass, so that a Gateway of it works."""
    try:
        return comes_true(lambda: _condition(cluster.get(GATEWAY_CLASS, gateway_class), "Accepted"), seconds)
    except ClusterRefused:
        return False  # the cluster does not know the kind


def way_in(cluster: Cluster, settings: Settings) -> Address:
    """Return where the Gateway is reached from here, once its proxies are there.

    Raises:
        BadInput: when its controller does not put it in force, or this machine does not reach it.
    """
    gateway = Gateway(settings, cluster)
    namespace, name = gateway.name

    def read() -> Body | None:
        return cluster.get(GATEWAY, name, namespace)

    if not comes_true(lambda: _condition(read(), "Programmed"), PROGRAM_SECONDS):
        raise BadInput(
            f"kubernetes: get Gateway {namespace}/{name}: not in force after {PROGRAM_SECONDS:.0f} s: "
            f"{_words(read())}; look at it: kubectl --namespace {namespace} describe gateway {name}"
        )
    address = gateway.address()
    try:
        socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except OSError as error:
        selector = f"gateway.envoyproxy.io/owning-gateway-name={name}"
        raise BadInput(
            f"Gateway {namespace}/{name} is at {address.host}:{address.port}, which this machine does not reach "
            f"({error}); say where it does with GATEWAY_ADDRESS=host:port: a port of a node, or one that kubectl "
            f"--namespace {namespace} port-forward leads to the Service of {selector}"
        ) from None
    return address


def _condition(body: Body | None, name: str) -> bool:
    return any(row["type"] == name and row["status"] == "True" for row in _conditions(body))


def _conditions(body: Body | None) -> list[Body]:
    return list((body or {}).get("status", {}).get("conditions", ()))


def _words(body: Body | None) -> str:
    told = [f"{row['type']} is {row['status']}: {row.get('message', '')}" for row in _conditions(body)]
    return "; ".join(told) or "nobody has looked at it"
