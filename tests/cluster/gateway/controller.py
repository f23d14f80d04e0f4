"""Envoy Gateway's controller: Gateways and HTTPRoutes of its class, into Envoy and back into their status."""

from __future__ import annotations

import contextlib

import httpx

from tests.cluster import services
from tests.cluster.cluster import Cluster
from tests.cluster.gateway.proxy import Endpoints, Proxy
from tests.cluster.gateway.translation import Leg, services_of, translate
from tests.cluster.kinds import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, NAMESPACE, REFERENCE_GRANT, SERVICE
from tests.cluster.loop import Loop
from tests.cluster.ownership import is_ready
from tests.cluster.podstatus import with_condition
from tests.cluster.running import Running
from tests.cluster.selectors import Object, fits
from tests.cluster.store import STATUS

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
HOME = "envoy-gateway-system"
PORT = 8080
UNPRIVILEGED, _PRIVILEGED = 10_000, 1024
"""Envoy Gateway adds the first to ports below the second; here no Service before the proxies takes it off."""


class EnvoyGateway(Running):
    """Serves the Gateways of one cluster by one Envoy."""

    def __init__(self, cluster: Cluster) -> None:
        self.port = PORT
        self._cluster = cluster
        self._store = cluster.store
        self.address = f"{cluster.network}.0.2"
        self.proxy = Proxy(cluster.folder / "gateway", self.address)
        self._loop = Loop(self._store, [self._look])

    def stop(self) -> None:
        """Stop the controller and Envoy."""
        self._loop.stop()
        self.proxy.stop()
        assert not self._loop.crashes, self._loop.crashes[0]

    def install(self, name: str = "slipway", port: int = PORT) -> None:
        """Add a GatewayClass, and a Gateway with one listener that routes of all namespaces may use."""
        api = HTTP_ROUTE.api_version
        self._cluster.create(
            {"apiVersion": api, "kind": "GatewayClass", "metadata": {"name": "envoy-gateway"},
             "spec": {"controllerName": CONTROLLER}}
        )  # fmt: skip
        listener = {"name": "http", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
        self._cluster.create(
            {"apiVersion": api, "kind": "Gateway", "metadata": {"name": name, "namespace": HOME},
             "spec": {"gatewayClassName": "envoy-gateway", "listeners": [listener]}}
        )  # fmt: skip
        self.port = port

    def _look(self) -> None:
        """Look at all objects, again and again while Envoy is down."""
        with contextlib.suppress(httpx.HTTPError):
            self._reconcile()

    def _reconcile(self) -> None:
        self._accept_classes()
        gateways = {_key(gateway): gateway for gateway in self._store.list(GATEWAY) if self._is_ours(gateway)}
        routes = self._store.list(HTTP_ROUTE)  # one look: what is told below is about what was put in force
        accepted = [
            route
            for route in routes
            if any(not self._refusal(route, parent, gateways) for parent in route["spec"].get("parentRefs", ()))
        ]
        ports = {port_of(row["port"]) for gateway in gateways.values() for row in gateway["spec"]["listeners"]}
        self._apply(accepted)
        self.proxy.put_listeners(ports)
        for route in routes:
            self._tell_route(route, gateways)
        for gateway in gateways.values():
            self._tell_gateway(gateway, accepted)

    def _accept_classes(self) -> None:
        for found in self._store.list(GATEWAY_CLASS):
            if found["spec"]["controllerName"] == CONTROLLER:
                self._store.set_status(GATEWAY_CLASS, "", found["metadata"]["name"], _accepted)

    def _is_ours(self, gateway: Object) -> bool:
        found = self._store.find(GATEWAY_CLASS, "", gateway["spec"]["gatewayClassName"])
        return found is not None and found["spec"]["controllerName"] == CONTROLLER

    def _apply(self, routes: list[Object]) -> None:
        """Put the routes in force; those with the same host are told apart by their precedence, then by age."""
        endpoints: Endpoints = {}
        hosts: dict[str, list[tuple[tuple[int, ...], Object]]] = {}
        for route in sorted(routes, key=lambda found: str(found["metadata"]["creationTimestamp"])):
            made = translate(route, self._missing(route))
            for name, legs in made.clusters.items():
                endpoints[name] = [(leg, self._addresses(leg)) for leg in legs]
            for host in route["spec"].get("hostnames") or ["*"]:
                hosts.setdefault(host, []).extend(made.routes)
        tables = [
            {
                "name": host,
                "domains": [host],
                "routes": [row for _, row in sorted(rows, key=lambda row: row[0], reverse=True)],
            }
            for host, rows in hosts.items()
        ]
        self.proxy.put_routes(endpoints, tables)

    def _addresses(self, leg: Leg) -> list[tuple[str, int]]:
        service = self._store.get(SERVICE, leg.namespace, leg.service)
        ports = [row for row in service["spec"]["ports"] if row["port"] == leg.port]
        pods = [pod for pod in services.pods_of(self._store, service) if is_ready(pod)]
        return [(pod["status"]["podIP"], services.target_port(ports[0], pod)) for pod in pods if ports]

    def _missing(self, route: Object) -> frozenset[tuple[str, str]]:
        """Return the Services that a route may not use, or that do not exist."""
        home = route["metadata"]["namespace"]
        return frozenset(
            (namespace, name)
            for namespace, name in services_of(route)
            if self._store.find(SERVICE, namespace, name) is None or not self._is_granted(home, namespace)
        )

    def _is_granted(self, home: str, namespace: str) -> bool:
        grants = self._store.list(REFERENCE_GRANT, namespace)
        rows = [row for grant in grants for row in grant["spec"]["from"]]
        return home == namespace or any((row["kind"], row["namespace"]) == ("HTTPRoute", home) for row in rows)

    def _refusal(self, route: Object, parent: Object, gateways: dict[tuple[str, str], Object]) -> str:
        """Return the reason why a parent does not accept a route; empty: it does."""
        home = route["metadata"]["namespace"]
        gateway = gateways.get((parent.get("namespace", home), parent["name"]))
        if gateway is None:
            return "NoMatchingParent"
        listeners = [row for row in gateway["spec"]["listeners"] if parent.get("sectionName") in (None, row["name"])]
        is_allowed = any(self._allows(listener, gateway, home) for listener in listeners)
        return "" if is_allowed else "NotAllowedByListeners"

    def _allows(self, listener: Object, gateway: Object, home: str) -> bool:
        wanted = (listener.get("allowedRoutes") or {}).get("namespaces") or {}
        match wanted.get("from", "Same"):
            case "All":
                return True
            case "Selector":
                labels = self._store.get(NAMESPACE, "", home)["metadata"].get("labels") or {}
                return fits(wanted.get("selector"), labels)
            case _:
                return bool(gateway["metadata"]["namespace"] == home)

    def _tell_route(self, route: Object, gateways: dict[tuple[str, str], Object]) -> None:
        home, name = route["metadata"]["namespace"], route["metadata"]["name"]
        missing = self._missing(route)

        def change(draft: Object) -> Object | None:
            if any(draft["metadata"][name] != route["metadata"][name] for name in ("uid", "generation")):
                return None
            before = {_reference(row["parentRef"], home): row for row in draft.get(STATUS, {}).get("parents", ())}
            parents = []
            for parent in route["spec"].get("parentRefs", ()):
                if _reference(parent, home) not in gateways:
                    continue
                rows = before.get(_reference(parent, home), {}).get("conditions", ())
                rows = _conditions(
                    rows, self._refusal(route, parent, gateways), missing, draft["metadata"]["generation"]
                )
                parents.append({"parentRef": parent, "controllerName": CONTROLLER, "conditions": rows})
            return {**draft, STATUS: {"parents": parents}}

        self._store.set_status(HTTP_ROUTE, home, name, change)

    def _tell_gateway(self, gateway: Object, routes: list[Object]) -> None:
        namespace, name = _key(gateway)
        num_routes = sum(
            any(
                _reference(parent, route["metadata"]["namespace"]) == (namespace, name)
                for parent in route["spec"]["parentRefs"]
            )
            for route in routes
        )

        def change(draft: Object) -> Object:
            status = draft.get(STATUS, {})
            generation = draft["metadata"]["generation"]
            rows = with_condition(status.get("conditions", ()), "Accepted", True, reason="Accepted")
            rows = with_condition(rows, "Programmed", True, reason="Programmed")
            listeners = [{"name": row["name"], "attachedRoutes": num_routes} for row in draft["spec"]["listeners"]]
            rows = [{**row, "observedGeneration": generation} for row in rows]
            addresses = [{"type": "IPAddress", "value": self.address}]
            return {**draft, STATUS: {"addresses": addresses, "conditions": rows, "listeners": listeners}}

        self._store.set_status(GATEWAY, namespace, name, change)


def port_of(port: int) -> int:
    """Return where the proxies listen for a listener: like the real ones, not where only root may."""
    return port + UNPRIVILEGED if port < _PRIVILEGED else port


def _accepted(gateway_class: Object) -> Object:
    rows = with_condition(gateway_class.get(STATUS, {}).get("conditions", ()), "Accepted", True, reason="Accepted")
    return {**gateway_class, STATUS: {"conditions": rows}}


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


def _reference(parent: Object, home: str) -> tuple[str, str]:
    return parent.get("namespace", home), parent["name"]


def _conditions(
    before: list[Object], refusal: str, missing: frozenset[tuple[str, str]], generation: int
) -> list[Object]:
    rows = with_condition(before, "Accepted", not refusal, reason=refusal or "Accepted")
    named = ", ".join(f"Service {namespace}/{name} not found" for namespace, name in sorted(missing))
    reason = "BackendNotFound" if missing else "ResolvedRefs"
    rows = with_condition(rows, "ResolvedRefs", not missing, reason=reason, message=named)
    return [{**row, "observedGeneration": generation} for row in rows]
