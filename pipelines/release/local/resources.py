"""Routes as Envoy's resources, and back: what is rendered here is read again from what Envoy really holds."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.formats import headers
from pipelines.release.local import clusters
from pipelines.release.local.clusters import TYPES, Resource
from pipelines.release.local.listeners import LUA, SESSION_KEY
from pipelines.release.ports import FULL_BP, Address, Route, Split, Target

USERS, PIN_STABLE, PIN_CANARY = "users", "pin-stable", "pin-canary"
"""Names of the routes, which the access log repeats."""

RETRIES = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,reset,gateway-error",
    "num_retries": 3,
    "retry_priority": {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {
            "@type": f"{TYPES}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 1,  # a request that failed on the canary goes to stable at once
        },
    },
}
"""The same for both arms; only first attempts count, so that a retry hides no failure."""


def route_configuration(route: Route) -> Resource:
    """Return the routes of a service: pinned requests to their arm, users by weight."""
    retries = RETRIES if route.is_idempotent else {}
    return {
        "@type": f"{TYPES}.config.route.v3.RouteConfiguration",
        "name": route.service,
        "virtual_hosts": [
            {
                "name": route.service,
                "domains": ["*"],
                "retry_policy": {"per_try_idle_timeout": f"{route.silence_seconds}s", **retries},
                "routes": [
                    _pinned(PIN_STABLE, "stable", route.stable, route),
                    _pinned(PIN_CANARY, "canary", route.canary, route),
                    _users(route),
                ],
            }
        ],
    }


def parse_route(routes: Resource, addresses: Mapping[str, Address], port: int) -> Route:
    """Return the route that a route configuration of ours stands for.

    Args:
        routes: as `route_configuration` made it.
        addresses: of the copies whose clusters Envoy holds; an arm whose cluster is missing counts as absent.
        port: of the service's listener.
    """
    host = routes["virtual_hosts"][0]
    entries = {entry["name"]: entry for entry in host["routes"]}
    canary = _arm(entries[PIN_CANARY], addresses)
    users = entries[USERS]
    return Route(
        service=routes["name"],
        port=port,
        stable=_arm(entries[PIN_STABLE], addresses),
        canary=canary,
        split=_split(users.get("route", {}), canary),
        is_idempotent="retry_on" in host["retry_policy"],
        session_header=users.get("metadata", {}).get("filter_metadata", {}).get(LUA, {}).get(SESSION_KEY, ""),
        silence_seconds=int(host["retry_policy"]["per_try_idle_timeout"].removesuffix("s")),
    )


def _users(route: Route) -> Resource:
    entry: Resource = {"name": USERS, "match": {"prefix": "/"}, **_session(route)}
    receiver = route.canary if route.split.canary_bp else route.stable
    if receiver is None:
        return {**entry, "direct_response": _refusal(503, f"{route.service}: no version is released yet\n")}
    affinity = [{"header": {"header_name": route.session_header}}] if route.session_header else []
    return {
        **entry,
        "route": {
            "weighted_clusters": {"clusters": _shares(route), **({"use_hash_policy": True} if affinity else {})},
            "hash_policy": affinity,
            "request_mirror_policies": _mirrors(route),
            **_patience(route),
        },
        "request_headers_to_remove": [headers.TRAFFIC, headers.PIN],  # what a user says about itself does not count
    }


def _shares(route: Route) -> list[Resource]:
    """Return the canary's share of all users, then stable's.

    A session is a point on the scale from 0 to all users, and the canary's share begins at 0: so it only wins sessions
    while its weight rises.
    """
    canary = [(clusters.canary_leg(route.canary.copy), route.split.canary_bp)] if route.canary else []
    stable = [(route.stable.copy, FULL_BP - route.split.canary_bp)] if route.stable else []
    return [{"name": name, "weight": weight} for name, weight in canary + stable]


def _mirrors(route: Route) -> list[Resource]:
    if route.canary is None or route.split.mirror_bp == 0:
        return []
    share = {"numerator": route.split.mirror_bp, "denominator": "TEN_THOUSAND"}
    return [{"cluster": clusters.mirror(route.canary.copy), "runtime_fraction": {"default_value": share}}]


def _session(route: Route) -> Resource:
    """Return what tells the Lua filter the name of the session header, or that there is none."""
    if not route.session_header:
        off = {"@type": f"{TYPES}.extensions.filters.http.lua.v3.LuaPerRoute", "disabled": True}
        return {"typed_per_filter_config": {LUA: off}}
    return {"metadata": {"filter_metadata": {LUA: {SESSION_KEY: route.session_header}}}}


def _pinned(name: str, arm: str, target: Target | None, route: Route) -> Resource:
    match = {"prefix": "/", "headers": [{"name": headers.PIN, "string_match": {"exact": arm}}]}
    off = {"@type": f"{TYPES}.extensions.filters.http.lua.v3.LuaPerRoute", "disabled": True}
    entry: Resource = {"name": name, "match": match, "typed_per_filter_config": {LUA: off}}
    if target is None:
        return {**entry, "direct_response": _refusal(404, f"{route.service}: there is no {arm} at present\n")}
    mark = {"header": {"key": headers.TRAFFIC, "value": headers.Traffic.PINNED}}
    return {
        **entry,
        "route": {"cluster": clusters.pinned(target.copy), **_patience(route)},
        "request_headers_to_add": [{**mark, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _patience(route: Route) -> Resource:
    """Return the time limits of a request: a copy may be silent for so long, a user somewhat longer.

    The default of 15 s for a whole answer would cut long ones; that of 5 minutes of silence could come before the
    service's own.
    """
    return {"timeout": "0s", "idle_timeout": f"{route.silence_seconds + 60}s"}


def _refusal(status: int, text: str) -> Resource:
    return {"status": status, "body": {"inline_string": text}}


def _arm(entry: Resource, addresses: Mapping[str, Address]) -> Target | None:
    copy = clusters.copy_of(entry.get("route", {}).get("cluster", ""))
    return Target(copy, addresses[copy]) if copy in addresses else None


def _split(action: Resource, canary: Target | None) -> Split:
    if canary is None:
        return Split()
    weights = (
        {share["name"]: share.get("weight", 0) for share in action["weighted_clusters"]["clusters"]} if action else {}
    )
    mirrors = action.get("request_mirror_policies", [])
    mirrored = mirrors[0]["runtime_fraction"]["default_value"]["numerator"] if mirrors else 0
    return Split(canary_bp=weights.get(clusters.canary_leg(canary.copy), 0), mirror_bp=mirrored)
