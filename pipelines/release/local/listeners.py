"""Listeners as Envoy's resources: one per service, one per canary for mirrored requests, and what they write down.

Envoy throws the answers to mirrored requests away before anything is logged. So they pass a listener inside Envoy,
which logs them as any other request: with their own attempts, flags and durations.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.release.local import clusters
from pipelines.release.local.clusters import TYPES, Resource
from pipelines.release.local.envoy import from_file
from pipelines.release.ports import Target

LOOPBACK = "127.0.0.1"
MIRROR_ROUTE = "mirror"
LUA = "envoy.filters.http.lua"
SESSION_KEY = "session_header"
"""Name in a route's metadata, in the part of the Lua filter, that holds the name of the session header."""

NOT_LOGGED = r"/(provenance|metrics|readyz|livez|healthz)(\?.*)?"
"""Paths for questions about a copy: their answers are no work of a version, and some of them are asked by Slipway."""

LOG_FORMAT = {
    "start": "%START_TIME(%s.%6f)%",
    "duration_ms": "%DURATION%",
    "headers_us": "%COMMON_DURATION(DS_RX_END:US_RX_BEG:us)%",  # from the end of the request: uploads are the user's
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "copy": "%UPSTREAM_HOST_NAME%",  # of the last attempt
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "session": "%DYNAMIC_METADATA(slipway:session)%",
}

_HASH_SESSION = """
local bit = require("bit")
local salt = "{salt}"

function envoy_on_request(handle)
  local name = handle:metadata():get("{key}")
  local value = name and handle:headers():get(name)
  if value == nil or value == "" then return end
  local text, hash = salt .. value, 14695981039346656037ULL
  for position = 1, #text do
    hash = bit.bxor(hash, text:byte(position) + 0ULL) * 1099511628211ULL
  end
  handle:streamInfo():dynamicMetadata():set("slipway", "session", bit.tohex(hash))
end
"""
"""Writes a session down as a salted FNV-1a hash: equal for equal sessions, and no name of anybody."""


def listener(service: str, port: int, routes: Path, log: Path, salt: str) -> Resource:
    """Return the listener of a service, which stays the same while the service lives: a change breaks connections.

    Args:
        service: name of the listener.
        port: where it listens.
        routes: file with the service's routes.
        log: file to which each request is written when it is over.
        salt: hexadecimal; makes the hashes of sessions those of this installation.
    """
    source = {"rds": {"route_config_name": service, "config_source": from_file(routes)}}
    lua = {
        "@type": f"{TYPES}.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": _HASH_SESSION.format(salt=salt, key=SESSION_KEY)},
    }
    filters = [{"name": LUA, "typed_config": lua}]
    address = {"socket_address": {"address": LOOPBACK, "port_value": port}}
    return {**_listener(service, _connections(service, source, filters, log)), "address": address}


def mirror_listener(canary: Target, silence_seconds: int, log: Path) -> Resource:
    """Return the listener inside Envoy that passes mirrored requests on to the canary, once, and writes them down."""
    name = clusters.mirror(canary.copy)
    action = {
        "cluster": canary.copy,
        "timeout": "0s",
        "idle_timeout": "0s",
        "retry_policy": {"per_try_idle_timeout": f"{silence_seconds}s"},
    }
    route = {"name": MIRROR_ROUTE, "match": {"prefix": "/"}, "route": action}
    routes = {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]}
    return {
        **_listener(name, _connections(name, {"route_config": routes}, [], log)),
        "internal_listener": {},
    }


def _listener(name: str, connections: Resource) -> Resource:
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
    return {"@type": f"{TYPES}.config.listener.v3.Listener", "name": name, "filter_chains": [chain]}


def _connections(name: str, routes: Resource, filters: list[Resource], log: Path) -> Resource:
    router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
    return {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        **routes,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "access_log": [_access_log(log)],
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
    }


def _access_log(log: Path) -> Resource:
    path = {"name": ":path", "string_match": {"safe_regex": {"regex": NOT_LOGGED}}, "invert_match": True}
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"header_filter": {"header": path}},
        "typed_config": {
            "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(log),
            "log_format": {"json_format": LOG_FORMAT},
        },
    }
