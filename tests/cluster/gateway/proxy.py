"""The Envoy of a Gateway: a real process, whose resources are files."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import httpx

from pipelines.release.local import envoy
from pipelines.release.local.clusters import TYPES
from pipelines.settings import Settings
from tests.cluster import processes
from tests.cluster.gateway.translation import Leg
from tests.cluster.selectors import Object
from tests.steps.live import wait_for

METRICS_PORT = 19001
"""Where Envoy Gateway's proxies show their metrics, at /stats/prometheus."""

Endpoints = dict[str, list[tuple[Leg, list[tuple[str, int]]]]]
"""Addresses behind each leg of each cluster."""


class Proxy:
    """One Envoy on an address of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        """Start it, without listeners."""
        self.address = address
        self.metrics = f"{address}:{METRICS_PORT}"
        self._folder = folder
        settings = Settings(home=folder)
        self._files = envoy.EnvoyFiles.of(settings)
        self._written: dict[Path, str] = {}
        self._applied = ""
        self._command = envoy.command(settings)
        self._client = httpx.Client(base_url=f"http://{self.metrics}", trust_env=False, timeout=5)
        bootstrap = envoy.bootstrap(self._files)
        admin = {"address": {"socket_address": {"address": address, "port_value": METRICS_PORT}}}
        envoy.write(self._files.bootstrap, {**bootstrap, "admin": admin, "stats_flush_interval": "0.2s"})
        for path in (self._files.listeners, self._files.clusters):
            self._write(path, [])
        self.start()

    def start(self) -> None:
        """Start the process, again after `kill`."""
        with (self._folder / "envoy.log").open("a") as log:
            self._process = processes.start(self._command, output=log)
        wait_for(self._is_up, "Envoy is up")

    def kill(self) -> None:
        """End the process without notice."""
        self._process.send_signal(processes.KILL)
        self._process.wait()

    def stop(self) -> None:
        """End the process for good."""
        self.kill()
        self._client.close()

    def put_listeners(self, ports: set[int]) -> None:
        """Listen on ports, each with the same routes."""
        if self._write(self._files.listeners, [self._listener(port) for port in sorted(ports)]):
            wait_for(lambda: all(self._listens(port) for port in ports), "the listeners are in force")

    def put_routes(self, endpoints: Endpoints, routes: list[Object]) -> None:
        """Put clusters and routes in force, if they are not: first what is new, last what is not needed any more."""
        wanted = repr((endpoints, routes))
        if wanted == self._applied:
            return
        old = self._clusters_in_force()
        for name, legs in endpoints.items():
            self._write(self._endpoints_file(name), [_assignment(name, legs)])
        self._write(self._files.clusters, [self._cluster(name) for name in sorted({*old, *endpoints})])
        wait_for(lambda: set(endpoints) <= self._clusters_in_force(), "the new clusters are in force")
        table = {"@type": f"{TYPES}.config.route.v3.RouteConfiguration", "name": "routes"}
        self._write(
            self._files.routes("all"), [{**table, "virtual_hosts": routes, "ignore_port_in_host_matching": True}]
        )
        wait_for(self._has_routes, "the routes are in force")
        self._write(self._files.clusters, [self._cluster(name) for name in sorted(endpoints)])
        self._applied = wanted

    def _listens(self, port: int) -> bool:
        with socket.socket() as client:
            return client.connect_ex((self.address, port)) == 0

    def _write(self, path: Path, resources: list[Object]) -> bool:
        """Write resources, and say whether they are new."""
        content = json.dumps(resources, sort_keys=True)
        if self._written.get(path) == content:
            return False
        version = hashlib.sha256(content.encode()).hexdigest()[:16]
        envoy.write(path, {"version_info": version, "resources": resources})
        self._written[path] = content
        return True

    def _listener(self, port: int) -> Object:
        router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
        source = envoy.from_file(self._files.routes("all"))
        connections = {
            "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": f"http-{port}",
            "rds": {"route_config_name": "routes", "config_source": source},
            "server_header_transformation": "PASS_THROUGH",
            "normalize_path": True,
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        address = {"socket_address": {"address": self.address, "port_value": port}}
        about = {"@type": f"{TYPES}.config.listener.v3.Listener", "name": f"http-{port}"}
        return {**about, "address": address, "filter_chains": [chain]}

    def _cluster(self, name: str) -> Object:
        return {
            "@type": f"{TYPES}.config.cluster.v3.Cluster",
            "name": name,
            "type": "EDS",
            "eds_cluster_config": {"service_name": name, "eds_config": envoy.from_file(self._endpoints_file(name))},
            "connect_timeout": "10s",
            "lb_policy": "LEAST_REQUEST",
            "ignore_health_on_host_removal": True,
            "common_lb_config": {"locality_weighted_lb_config": {}},
        }

    def _endpoints_file(self, name: str) -> Path:
        return self._files.folder / "endpoints" / hashlib.sha256(name.encode()).hexdigest()[:16] / "endpoints.json"

    def _clusters_in_force(self) -> set[str]:
        return {row["cluster"]["name"] for row in self._dump("dynamic_active_clusters")}

    def _has_routes(self) -> bool:
        wanted = json.loads(self._files.routes("all").read_text())["version_info"]
        return all(row.get("version_info") == wanted for row in self._dump("dynamic_route_configs"))

    def _dump(self, resource: str) -> list[Any]:
        answer = self._client.get("/config_dump", params={"resource": resource})
        return (
            [] if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().json().get("configs", [])
        )

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "envoy.log").read_text()[-2000:]
        try:
            return self._client.get("/ready").is_success
        except httpx.HTTPError:
            return False


def _assignment(name: str, legs: list[tuple[Leg, list[tuple[str, int]]]]) -> Object:
    localities = []
    for leg, addresses in legs:
        endpoints = [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
            for host, port in addresses
        ]
        region = {"region": f"{leg.namespace}/{leg.service}"}
        localities.append({"locality": region, "load_balancing_weight": leg.weight, "lb_endpoints": endpoints})
    about = {"@type": f"{TYPES}.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": name}
    return {**about, "endpoints": localities}
