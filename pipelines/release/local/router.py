"""The router on one machine: Envoy, told by files, asked by its admin interface."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.artifacts import canonical_json
from pipelines.errors import RouterRejected
from pipelines.release.local import clusters, listeners, resources
from pipelines.release.local.access_log import AccessLog
from pipelines.release.local.clusters import Resource
from pipelines.release.local.counts import Writer, count
from pipelines.release.local.envoy import Admin, EnvoyFiles, write
from pipelines.release.local.listeners import LOOPBACK
from pipelines.release.ports import Address, Capability, Counts, Observed, Route, RouterUnavailable, Sessions
from pipelines.settings import Settings, parse_port_range

logger = logging.getLogger(__name__)

ACCEPT_SECONDS = 10.0
POLL_SECONDS = 0.02
_OBSERVED = TypeAdapter(Observed)


class EnvoyRouter:
    """See `pipelines.release.ports.Router`."""

    def __init__(self, settings: Settings) -> None:
        self._files = EnvoyFiles.of(settings)
        self._admin = Admin(self._files.admin_socket)
        self._ports = parse_port_range(settings.service_ports)
        self._log = settings.resolved_home() / "logs" / "envoy.log"

    def free_ports(self) -> Iterable[int]:
        """Yield ports on which nothing listens."""
        return (port for port in self._ports if is_free(port))

    def apply(self, route: Route, generation: int) -> None:
        """Write a route into Envoy's files and wait until Envoy has accepted it; a rejected one leaves no trace.

        Raises:
            RouterRejected: with Envoy's reason, or because a newer generation was accepted before.
            RouterUnavailable: when Envoy does not answer; it finds the new route in its files when it starts.
        """
        with _locked(self._files.lock):
            before = self._desired(route.service)
            if before is not None and generation < before.generation:
                raise RouterRejected(
                    f"router: generation {generation} of {route.service} is older than {before.generation}, which was "
                    "accepted; somebody else lowered the weight in the meantime"
                )
            try:
                self._converge(Observed(route, generation), before)
            except RouterRejected:
                self._restore(route.service, before)
                raise
        logger.info("%s: generation %d is in force, canary at %d bp", route.service, generation, route.split.canary_bp)

    def observe(self, service: str) -> Observed | None:
        """Return the route that Envoy holds."""
        held = [entry["route_config"] for entry in self._admin.config("dynamic_route_configs")]
        found = next((routes for routes in held if routes["name"] == service), None)
        port = self._listening().get(service)
        if found is None or port is None:
            return None
        route = resources.parse_route(found, self._addresses(), port)
        # The dump keeps the older version when two have equal routes; the statistic is always the latest accepted one.
        version = str(self._admin.stats(_subscription(service))["version_text"])
        return Observed(route, int(version.partition("-")[0]))

    def drain(self, service: str, copy: str) -> int:
        """Return how many requests Envoy waits for from a copy, over all of its clusters."""
        waiting = ("upstream_rq_active", "upstream_rq_pending_active")
        stats = [self._admin.stats(f"cluster.{cluster}") for cluster in clusters.serving(copy)]
        return sum(int(found.get(name, 0)) for found in stats for name in waiting)

    def counts(self, service: str, since: str | None, sessions: Sessions | None = None) -> Counts:
        """Return what the access log says. Shadow requests are the canary's only: stable gets no copies.

        Raises:
            RouterUnavailable: when Envoy does not answer, or does not write a log of this service.
        """
        if service not in self._listening():
            raise RouterUnavailable(f"router: Envoy has no endpoint of {service}, so it counts nothing")
        writer = self._writer()
        path = self._files.access_log(service)
        with _locked(path.with_suffix(".lock")):
            log = AccessLog(path, self._admin.reopen_logs)
            found = count(log, writer, since, sessions)
            log.rotate()
        return found

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return everything that there is."""
        return frozenset(Capability)

    def _writer(self) -> Writer:
        """Return which Envoy writes: it makes its admin socket anew whenever it starts."""
        started_us = self._files.admin_socket.stat().st_mtime_ns // 1000
        return Writer(started_us, num_failed=int(self._admin.stats("filesystem")["write_failed"]))

    def _converge(self, wanted: Observed, before: Observed | None) -> None:
        """Add clusters before a route names them, and remove them only after no route does."""
        service = wanted.route.service
        write(self._files.desired(service), asdict(wanted))
        desired = self._all_desired()
        try:
            self._publish_clusters([*([before] if before else []), *desired])  # a copy's new address wins
            self._publish_routes(wanted, is_new=service not in self._listening())
            self._publish_listeners(desired)
            self._wait(lambda: self.observe(service) == wanted, f"Envoy does not do what {service}'s files say")
            self._publish_clusters(desired)
        except RouterUnavailable:
            self._write_all(desired)
            raise

    def _restore(self, service: str, before: Observed | None) -> None:
        """Put back what Envoy had accepted, for a rejected file would leave it with nothing after its next start."""
        if before is None:
            self._files.desired(service).unlink(missing_ok=True)
        else:
            write(self._files.desired(service), asdict(before))
        self._write_all(self._all_desired())

    def _write_all(self, desired: Sequence[Observed]) -> None:
        """Write every resource without waiting: for Envoy's next start."""
        for held in desired:
            write(self._files.routes(held.route.service), _response(*_routes(held)))
        write(self._files.clusters, _response(*_clusters(desired)))
        write(self._files.listeners, _response(*self._listeners(desired)))

    def _publish_clusters(self, desired: Sequence[Observed]) -> None:
        self._publish(self._files.clusters, *_clusters(desired), "cluster_manager.cds")
        self._wait(lambda: not self._admin.config("dynamic_warming_clusters"), "Envoy has a cluster that does not warm")

    def _publish_routes(self, wanted: Observed, *, is_new: bool) -> None:
        service = wanted.route.service
        if is_new:  # nobody subscribes before the listener is there
            write(self._files.routes(service), _response(*_routes(wanted)))
        else:
            self._publish(self._files.routes(service), *_routes(wanted), _subscription(service))

    def _publish_listeners(self, desired: Sequence[Observed]) -> None:
        self._publish(self._files.listeners, *self._listeners(desired), "listener_manager.lds")

    def _publish(self, path: Path, version: str, entries: list[Resource], subscription: str) -> None:
        """Replace a resource file and wait until Envoy took or refused it; what it holds already is not sent again.

        Raises:
            RouterRejected: with Envoy's reason.
        """
        before = self._admin.stats(subscription)
        if before.get("version_text") == version:
            return
        mark = self._log.stat().st_size if self._log.exists() else 0
        write(path, _response(version, entries))

        def is_taken() -> bool:
            now = self._admin.stats(subscription)
            if any(now.get(counter, 0) > before.get(counter, 0) for counter in ("update_rejected", "update_failure")):
                raise RouterRejected(f"router: Envoy refused {path.name}: {self._reason(mark)}")
            return bool(now.get("version_text") == version)

        self._wait(is_taken, f"Envoy does not take {path.name}")

    def _reason(self, mark: int) -> str:
        """Return the last reason for a refusal in Envoy's log, from a position on."""
        if not self._log.exists():
            return "no log to say why"
        with self._log.open("rb") as stream:
            stream.seek(mark)
            text = stream.read().decode(errors="replace")
        _, found, reason = text.rpartition("config update rejected: ")
        return " ".join(reason.partition("\n[")[0].split()) if found else f"see {self._log}"

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + ACCEPT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RouterRejected(f"router: {otherwise} within {ACCEPT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _listening(self) -> dict[str, int]:
        """Return the port of every service whose listener is active."""
        active = {
            entry["name"]: entry["active_state"]["listener"]
            for entry in self._admin.config("dynamic_listeners")
            if "active_state" in entry
        }
        return {
            name: found["address"]["socket_address"]["port_value"]
            for name, found in active.items()
            if "internal_listener" not in found
        }

    def _addresses(self) -> dict[str, Address]:
        """Return the address of every copy whose cluster is active."""
        found = [entry["cluster"] for entry in self._admin.config("dynamic_active_clusters")]
        own = [entry for entry in found if entry["name"] == clusters.copy_of(entry["name"])]
        return {entry["name"]: clusters.address_of(entry) for entry in own}

    def _listeners(self, desired: Sequence[Observed]) -> tuple[str, list[Resource]]:
        self._files.access.mkdir(mode=0o700, parents=True, exist_ok=True)
        entries = [listener for held in desired for listener in self._listeners_of(held.route)]
        return _hash(entries), entries

    def _listeners_of(self, route: Route) -> Iterator[Resource]:
        service, log = route.service, self._files.access_log(route.service)
        yield listeners.listener(service, route.port, self._files.routes(service), log, self._files.salt())
        if route.canary is not None:
            yield listeners.mirror_listener(route.canary, route.silence_seconds, log)

    def _desired(self, service: str) -> Observed | None:
        path = self._files.desired(service)
        return _OBSERVED.validate_json(path.read_bytes()) if path.exists() else None

    def _all_desired(self) -> list[Observed]:
        folder = self._files.desired("any").parent
        return [_OBSERVED.validate_json(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_free(port: int) -> bool:
    """Say whether a server could listen on a port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _routes(held: Observed) -> tuple[str, list[Resource]]:
    """Return a service's routes; their version begins with the generation, which `observe` reads from it."""
    entries = [resources.route_configuration(held.route)]
    return f"{held.generation}-{_hash(entries)}", entries


def _clusters(desired: Sequence[Observed]) -> tuple[str, list[Resource]]:
    entries = {entry["name"]: entry for held in desired for entry in _clusters_of(held.route)}
    return _hash(list(entries.values())), list(entries.values())


def _clusters_of(route: Route) -> Iterator[Resource]:
    for target in (route.stable, route.canary):
        if target is not None:
            yield from clusters.of_copy(target)
    if route.canary is not None:
        yield from clusters.of_canary(route.canary, route.stable)


def _subscription(service: str) -> str:
    return f"http.{service}.rds.{service}"


def _response(version: str, entries: list[Resource]) -> dict[str, Any]:
    return {"version_info": version, "resources": entries}


def _hash(entries: list[Resource]) -> str:
    return hashlib.sha256(canonical_json(entries)).hexdigest()[:12]
