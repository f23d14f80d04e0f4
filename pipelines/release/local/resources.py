"""Routes as Envoy's resources, and back: what is rendered here is read again from what Envoy really holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.formats import headers
from pipelines.release.local.envoy import connection_limit, from_file
from pipelines.release.ports import FULL_BP, Address, Route, Split, Target

LOOPBACK = "127.0.0.1"
READY_PATH = "/readyz"
RETRIES = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,reset,gateway-error",
    "num_retries": 3,
    "per_try_idle_timeout": "120s",  # how long a copy may be silent: longer than a whole answer that is not streamed
}

KEEP_ALIVE = "3s"
"""Idle connections are closed before the copy's server closes them (5 s), or a request could meet the closing."""

_TYPES = "type.googleapis.com/envoy"
_ENDLESS = {"timeout": "0s"}
"""The default of 15 s would cut long answers."""

_USERS, _PIN_STABLE, _PIN_CANARY = "users", "pin-stable", "pin-canary"

Resource = dict[str, Any]


def route_configuration(route: Route) -> Resource:
    """Return the routes of a service: pinned requests to their arm, users by weight."""
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": route.service,
        "virtual_hosts": [
            {
                "name": route.service,
                "domains": ["*"],
                **({"retry_policy": RETRIES} if route.is_idempotent else {}),
                "routes": [
                    _pinned(_PIN_STABLE, "stable", route.stable, route),
                    _pinned(_PIN_CANARY, "canary", route.canary, route),
                    _users(route),
                ],
            }
        ],
    }


def cluster(target: Target) -> Resource:
    """Return the cluster of a copy. It is checked by HTTP: a dead worker's socket still accepts connections."""
    limit = connection_limit()
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), limit)
    address = {"address": target.address.host, "port_value": target.address.port}
    endpoint = {"endpoint": {"address": {"socket_address": address}}}
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": target.copy,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": target.copy, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [limits]},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "0.5s",  # the default, 60 s, keeps a slow starter without requests
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": READY_PATH},
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": KEEP_ALIVE},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def listener(service: str, port: int, routes: Path) -> Resource:
    """Return the listener of a service, which stays the same while the service lives: a change breaks connections."""
    return {
        "@type": f"{_TYPES}.config.listener.v3.Listener",
        "name": service,
        "address": {"socket_address": {"address": LOOPBACK, "port_value": port}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3."
                            "HttpConnectionManager",
                            "stat_prefix": service,
                            "rds": {"route_config_name": service, "config_source": from_file(routes)},
                            "server_header_transformation": "PASS_THROUGH",
                            "normalize_path": True,
                            "http_filters": [
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"},
                                }
                            ],
                        },
                    }
                ]
            }
        ],
    }


def parse_route(routes: Resource, addresses: Mapping[str, Address], port: int) -> Route:
    """Return the route that a route configuration of ours stands for.

    Args:
        routes: as `route_configuration` made it.
        addresses: of the clusters that Envoy holds; an arm whose cluster is missing counts as absent.
        port: of the service's listener.
    """
    host = routes["virtual_hosts"][0]
    entries = {entry["name"]: entry for entry in host["routes"]}
    stable = _arm(entries[_PIN_STABLE], addresses)
    canary = _arm(entries[_PIN_CANARY], addresses)
    shares = entries[_USERS].get("route", {}).get("weighted_clusters", {}).get("clusters", [])
    weights = {share["name"]: share.get("weight", 0) for share in shares}
    return Route(
        service=routes["name"],
        port=port,
        stable=stable,
        canary=canary,
        split=Split(canary_bp=weights.get(canary.copy, 0) if canary else 0),
        is_idempotent="retry_policy" in host,
    )


def cluster_address(found: Resource) -> Address:
    """Return where a cluster of ours sends its requests."""
    address = found["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    return Address(address["address"], address["port_value"])


def _users(route: Route) -> Resource:
    shares = ((route.stable, FULL_BP - route.split.canary_bp), (route.canary, route.split.canary_bp))
    clusters = [{"name": target.copy, "weight": weight} for target, weight in shares if target]
    entry: Resource = {"name": _USERS, "match": {"prefix": "/"}}
    receiver = route.canary if route.split.canary_bp else route.stable
    if receiver is None:
        return {**entry, "direct_response": _refusal(503, f"{route.service}: no version is released yet\n")}
    return {
        **entry,
        "route": {"weighted_clusters": {"clusters": clusters}, **_ENDLESS},
        "request_headers_to_remove": [headers.TRAFFIC, headers.PIN],  # what a user says about itself does not count
    }


def _pinned(name: str, arm: str, target: Target | None, route: Route) -> Resource:
    match = {"prefix": "/", "headers": [{"name": headers.PIN, "string_match": {"exact": arm}}]}
    entry: Resource = {"name": name, "match": match}
    if target is None:
        return {**entry, "direct_response": _refusal(404, f"{route.service}: there is no {arm} at present\n")}
    mark = {"header": {"key": headers.TRAFFIC, "value": headers.Traffic.PINNED}}
    return {
        **entry,
        "route": {"cluster": target.copy, **_ENDLESS},
        "request_headers_to_add": [{**mark, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _refusal(status: int, text: str) -> Resource:
    return {"status": status, "body": {"inline_string": text}}


def _arm(entry: Resource, addresses: Mapping[str, Address]) -> Target | None:
    copy = entry.get("route", {}).get("cluster", "")
    return Target(copy, addresses[copy]) if copy in addresses else None
