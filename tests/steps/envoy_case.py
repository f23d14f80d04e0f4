"""A service behind a real Envoy, with two copies in this process, for tests of routing and counting."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from pipelines.formats.headers import Traffic
from pipelines.release.local.envoy import FLUSH_SECONDS, EnvoyFiles
from pipelines.release.local.router import EnvoyRouter
from pipelines.release.ports import Address, Arm, Counts, Observed, Route, Sessions, Split, Tally, Target
from pipelines.settings import Settings
from tests.steps.copy_server import Server
from tests.steps.live import DEADLINE_SECONDS, LiveEnvoy, wait_for

ACTIVE = ".downstream_rq_active"
BUFFERED = "write_total_buffered"
"""Envoy's own counts: requests under way, bytes that are not written to logs yet."""


class Endpoint:
    """One service: `one` is stable, `two` is the canary. Every change of the route is a new generation."""

    def __init__(self, envoy: LiveEnvoy, service: str) -> None:
        self.envoy = envoy
        self.service = service
        self.router = EnvoyRouter(envoy.settings)
        self.port = next(iter(self.router.free_ports()))
        self.one = Server(0, "one", "1" * 64).run_in_thread()
        self.two = Server(0, "two", "2" * 64).run_in_thread()
        self.stable: Target | None = None
        self.canary: Target | None = None
        self.generation = 0
        self.client = httpx.Client(
            timeout=DEADLINE_SECONDS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def reset(self) -> Endpoint:
        """Give both copies their roles, all users to stable, and forget what was, also what is still under way."""
        wait_for(self.is_idle, "the end of earlier requests")
        for server in (self.one, self.two):
            server.fault, server.is_ready = "", True
            server.next_chunk.clear()
            server.seen.clear()
            server.refused.clear()
        self.stable, self.canary = self.target("one", self.one.port), self.target("two", self.two.port)
        self.apply()
        return self

    def target(self, name: str, port: int) -> Target:
        return Target(f"{self.service}-{name}", Address("127.0.0.1", port))

    def route(self, canary_bp: int = 0, mirror_bp: int = 0, **others: Any) -> Route:
        split = Split(canary_bp, mirror_bp)
        return Route(self.service, self.port, self.stable, self.canary, split, **{"is_idempotent": True, **others})

    def apply(self, canary_bp: int = 0, mirror_bp: int = 0, **others: Any) -> Route:
        """Put a route in force, and check that it is."""
        self.generation += 1
        wanted = self.route(canary_bp, mirror_bp, **others)
        self.router.apply(wanted, self.generation)
        assert self.router.observe(self.service) == Observed(wanted, self.generation)
        return wanted

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/completions"

    def ask(
        self, body: dict[str, Any] | None = None, *, timeout: float = DEADLINE_SECONDS, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(self.url, json={"prompt": "x", **(body or {})}, headers=named, timeout=timeout)

    def cursor(self) -> str:
        """Return the cursor of this moment, when what came before it is in the log."""
        wait_for(self.is_idle, "the end of earlier requests")
        text, still_since = self.log_text(), time.monotonic()
        while time.monotonic() < still_since + 3 * FLUSH_SECONDS or self.envoy.admin.stats("filesystem")[BUFFERED]:
            time.sleep(0.02)
            if (latest := self.log_text()) != text:
                text, still_since = latest, time.monotonic()
        return self.router.counts(self.service, None).cursor

    def is_idle(self) -> bool:
        """Say whether Envoy has finished all requests, of users and of its own."""
        counts = self.envoy.admin.stats("http")
        return not any(count for name, count in counts.items() if name.endswith(ACTIVE) and name != f"admin{ACTIVE}")

    def counts(self, since: str, num_exposures: int, sessions: Sessions | None = None) -> Counts:
        """Wait until so many exposures since a cursor are in the log; return the counts, which must have no gap."""
        latest = self.router.counts(self.service, since, sessions)

        def are_there() -> bool:
            nonlocal latest
            latest = self.router.counts(self.service, since, sessions)
            assert latest.gap == ""
            return total(latest) >= num_exposures

        wait_for(are_there, f"{num_exposures} exposures in the log")
        return latest

    def log_text(self) -> str:
        path = EnvoyFiles.of(self.envoy.settings).access_log(self.service)
        return path.read_text() if path.exists() else ""

    @contextlib.contextmanager
    def stream(self, num_chunks: int = 200, **headers: str) -> Iterator[Stream]:
        """Open a streamed answer; it goes on until the servers' `next_chunk` is set."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"prompt": "x", "chunks": num_chunks}
        with self.client.stream("POST", self.url, json=body, headers=named) as response:
            yield Stream(response)

    def stop(self) -> None:
        for server in (self.one, self.two):
            server.next_chunk.set()
            server.stop()


class Stream:
    """A streamed answer that is read by a thread of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self.version = response.headers.get("X-Slipway-Version")
        self.text = ""
        self.error: httpx.HTTPError | None = None
        self._response = response
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(lambda: self.text or self.error, "the first token")

    def _read(self) -> None:
        try:
            for chunk in self._response.iter_text():
                self.text += chunk
        except httpx.HTTPError as error:
            self.error = error

    def wait(self) -> None:
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "the stream did not end"


@contextlib.contextmanager
def running_endpoint(settings: Settings, service: str = "docs") -> Iterator[Endpoint]:
    """Run Envoy with one service for a block."""
    endpoint = Endpoint(LiveEnvoy(settings), service)
    try:
        yield endpoint
    finally:
        endpoint.stop()
        endpoint.envoy.kill()


def total(counts: Counts) -> int:
    """Return all exposures."""
    return sum(found.exposures for found in counts.tallies.values())


def users(counts: Counts, arm: Arm) -> Tally:
    """Return what an arm did for users."""
    return counts.tallies.get((arm, Traffic.USER), Tally())
