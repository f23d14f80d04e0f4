"""Clusters of a copy as Envoy's resources: one per kind of traffic, so that each has limits and counters of its own.

`<copy>` serves users of stable, and mirrored requests. `<copy>/users` is the canary's leg of user traffic: the canary,
and stable for what the canary cannot answer. `<copy>/pinned` gets pinned requests, `<copy>/mirror` leads to the
listener that writes mirrored requests down.
"""

from __future__ import annotations

from typing import Any

from pipelines.release.local.envoy import connection_limit
from pipelines.release.ports import Address, Target

TYPES = "type.googleapis.com/envoy"
READY_PATH = "/readyz"
KEEP_ALIVE = "3s"
"""Idle connections are closed before the copy's server closes them (5 s), or a request could meet the closing."""

_LEG, _PINNED, _MIRROR = "/users", "/pinned", "/mirror"
_NO_PANIC = {"common_lb_config": {"healthy_panic_threshold": {"value": 0.0}}}
"""Send nothing to a copy that is not healthy, even if no other one is."""

Resource = dict[str, Any]


def canary_leg(copy: str) -> str:
    """Return the name of the cluster that gets the canary's share of the users."""
    return copy + _LEG


def pinned(copy: str) -> str:
    """Return the name of the cluster that gets pinned requests."""
    return copy + _PINNED


def mirror(copy: str) -> str:
    """Return the name of the cluster, and of the listener behind it, that gets copies of users' requests."""
    return copy + _MIRROR


def copy_of(cluster: str) -> str:
    """Return the copy that a cluster was made for."""
    return cluster.partition("/")[0]


def is_canary_leg(cluster: str) -> bool:
    """Say whether a cluster gets the canary's share of the users."""
    return cluster.endswith(_LEG)


def serving(copy: str) -> tuple[str, str]:
    """Return the clusters whose connections lead to the copy itself; the others are ways to these."""
    return copy, pinned(copy)


def of_copy(target: Target) -> list[Resource]:
    """Return the clusters that a copy has in any role; they stay the same when a canary becomes stable."""
    return [_direct(target.copy, target), {**_direct(pinned(target.copy), target), **_NO_PANIC}]


def of_canary(canary: Target, stable: Target | None) -> list[Resource]:
    """Return the clusters that only a canary has."""
    return [_leg(canary, stable), _way_to_mirror(canary)]


def address_of(cluster: Resource) -> Address:
    """Return where a copy's own cluster sends its requests."""
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    return Address(address["address"], address["port_value"])


def _direct(name: str, target: Target) -> Resource:
    """Return a cluster of one copy. It is checked by HTTP: a dead worker's socket still accepts connections."""
    address = {"socket_address": {"address": target.address.host, "port_value": target.address.port}}
    return {
        **_static(name, {"hostname": target.copy, "address": address}),
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "0.5s",  # the default, 60 s, keeps a slow starter without requests
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": READY_PATH, "host": target.copy},  # else the name, no host: "/pinned"
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": KEEP_ALIVE},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _leg(canary: Target, stable: Target | None) -> Resource:
    """Return the canary first and stable after it: who is not healthy, or failed before, is passed over."""
    members = [target.copy for target in (canary, stable) if target]
    aggregate = {"@type": f"{TYPES}.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": members}
    return {
        **_bare(canary_leg(canary.copy)),
        **_NO_PANIC,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": aggregate},
    }


def _way_to_mirror(canary: Target) -> Resource:
    name = mirror(canary.copy)
    return _static(name, {"address": {"envoy_internal_address": {"server_listener_name": name}}})


def _static(name: str, endpoint: Resource) -> Resource:
    endpoints = [{"lb_endpoints": [{"endpoint": endpoint}]}]
    return {**_bare(name), "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _bare(name: str) -> Resource:
    limit = connection_limit()
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), limit)
    return {
        "@type": f"{TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [limits]},
    }
