"""The Gateway that all endpoints share: whether it is there, who stands behind it, where it listens.

What an implementation can do, and how its counts are read, is data: `gateways.yaml`, by the controller's name.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import NamedTuple

import yaml

from pipelines.errors import BadInput
from pipelines.release import endpoints
from pipelines.release.kubernetes.cluster import GATEWAY, GATEWAY_CLASS, NAMESPACE, Body, Cluster
from pipelines.release.ports import Address, Capability
from pipelines.settings import Settings
from pipelines.spec import Frozen

KNOWN = Path(__file__).with_name("gateways.yaml")


class Broken(Frozen):
    """Connections that ended under a request, and those of them that ended before its headers."""

    gone: tuple[str, ...]
    before_headers: tuple[str, ...]


class Latency(Frozen):
    """A histogram of whole answers."""

    buckets: str
    unit_ms: float


class CountsOf(Frozen):
    """Where the counts of a route are, with `{namespace}` and `{route}` in the texts; see `gateways.yaml`."""

    stale_seconds: float
    instance: str
    part: str
    parts: dict[str, str]
    scrapes: str
    uptime: str
    exposures: tuple[str, ...]
    bad: tuple[str, ...]
    broken: Broken
    latency: Latency
    in_flight: tuple[str, ...]

    def of(self, namespace: str, route: str) -> CountsOf:
        """Return the same for one HTTPRoute."""

        def filled(value: object) -> object:
            match value:
                case str():
                    return value.format(namespace=namespace, route=route)
                case dict():
                    return {key: filled(inner) for key, inner in value.items()}
                case list() | tuple():
                    return [filled(inner) for inner in value]
                case _:
                    return value

        return CountsOf.model_validate(filled(self.model_dump()))


class Implementation(Frozen):
    """What a controller of the Gateway API can do for a release."""

    name: str
    capabilities: frozenset[Capability]
    proxies_namespace: str
    propagation_seconds: float
    counts: CountsOf | None = None


class GatewayName(NamedTuple):
    """Which Gateway."""

    namespace: str
    name: str


class Gateway:
    """The Gateway that the settings name."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.name = _parse(settings.gateway)
        self._settings = settings
        self._cluster = cluster
        self._checking = threading.Lock()
        self._found: Implementation | None = None

    def check(self) -> Implementation:
        """Return what stands behind the Gateway; asked once, before the first object is made.

        Raises:
            ClusterRefused: when the cluster has no Gateway API, or this account may not look.
            BadInput: when the namespace or the Gateway is missing, or nobody knows its controller.
        """
        with self._checking:
            if self._found is None:
                self._found = self._look()
            return self._found

    def address(self) -> Address:
        """Return where the Gateway is reached.

        Raises:
            BadInput: when it has no address, or its listeners no port.
        """
        if self._settings.gateway_address:
            host, _, port = self._settings.gateway_address.rpartition(":")
            if not host or not port.isdigit():
                raise BadInput(f"SLIPWAY_GATEWAY_ADDRESS is written host:port, got {self._settings.gateway_address!r}")
            return Address(host, int(port))
        found = self._read()
        addresses = found.get("status", {}).get("addresses", [])
        ports = [entry["port"] for entry in found["spec"]["listeners"] if entry["protocol"] == "HTTP"]
        if not addresses or not ports:
            raise BadInput(
                f"kubernetes: Gateway {self._settings.gateway} has no {'HTTP listener' if addresses else 'address'}; "
                "wait for its controller, or set SLIPWAY_GATEWAY_ADDRESS"
            )
        return Address(addresses[0]["value"], int(ports[0]))

    def host(self, service: str) -> str:
        """Return the host name under which a service is reached through the Gateway."""
        return endpoints.host(self._settings, service)

    def _look(self) -> Implementation:
        namespace = self._cluster.namespace
        if self._cluster.get(NAMESPACE, namespace) is None:
            raise BadInput(
                f"kubernetes: get Namespace {namespace}: there is none of that name; make it (docker/k8s), or set "
                "SLIPWAY_KUBERNETES_NAMESPACE"
            )
        name = self._read()["spec"]["gatewayClassName"]
        gateway_class = self._cluster.get(GATEWAY_CLASS, name)
        if gateway_class is None:
            raise BadInput(f"kubernetes: get GatewayClass {name} of Gateway {self._settings.gateway}: there is none")
        controller = gateway_class["spec"]["controllerName"]
        found = implementations().get(controller)
        if found is None:
            raise BadInput(
                f"kubernetes: GatewayClass {name} is of {controller}, which {KNOWN.name} does not know; use a Gateway "
                f"of {', '.join(known.name for known in implementations().values())}, or add what this one can do"
            )
        return found

    def _read(self) -> Body:
        found = self._cluster.get(GATEWAY, self.name.name, self.name.namespace)
        if found is None:
            raise BadInput(
                f"kubernetes: get Gateway {self.name.name} in namespace {self.name.namespace}: there is none; apply "
                "docker/k8s, or set SLIPWAY_GATEWAY"
            )
        return found


@functools.cache
def implementations() -> dict[str, Implementation]:
    """Return the known implementations by the name of their controller."""
    found = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
    return {controller: Implementation.model_validate(entry) for controller, entry in found.items()}


def _parse(text: str) -> GatewayName:
    namespace, separator, name = text.partition("/")
    if not (namespace and separator and name) or "/" in name:
        raise BadInput(f"SLIPWAY_GATEWAY is written namespace/name, got {text!r}")
    return GatewayName(namespace, name)
