"""Benchmark of the router: how long a request takes through it, and how long a new weight.

    python tests/benchmarks/bench_router.py

Bar: added latency, p50 <= 0.2 ms. Requests go to a copy directly and through Envoy in turns, on two open connections,
so that a busy machine slows both alike; a round's figure is the difference of the two medians. Once as plain as it
gets, once with everything switched on: a split of users, sessions and a mirror. The access log is always written.
The peer is an Envoy that does nothing but pass requests on: what one more process on the way costs here.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.release.local.router import EnvoyRouter, is_free
from pipelines.release.ports import FULL_BP, Address, Route, Split, Target
from pipelines.settings import Settings
from tests.load.fault_envoy import between
from tests.steps.copy_server import Server
from tests.steps.live import LiveEnvoy, wait_for

BAR_MS = 0.2
SERVICE = "docs"
HEADERS = {"X-User": "somebody"}


@contextlib.contextmanager
def copy(name: str) -> Iterator[Target]:
    """Run a copy in a process of its own."""
    with Server(0, name, "") as server:
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        try:
            yield Target(f"{SERVICE}-{name}", Address("127.0.0.1", server.port))
        finally:
            process.kill()
            process.join()


def milliseconds(connection: http.client.HTTPConnection) -> float:
    """Return how long one request takes on an open connection."""
    started = time.perf_counter()
    connection.request("GET", "/v1/models", headers=HEADERS)
    connection.getresponse().read()
    return 1000.0 * (time.perf_counter() - started)


def added(direct: int, routed: int, num_requests: int) -> float:
    """Return the difference of the medians of requests that alternate between two ports, in ms."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for port in (direct, routed)]
    with contextlib.ExitStack() as stack:
        for connection in connections:
            stack.callback(connection.close)
            for _ in range(20):
                milliseconds(connection)
        pairs = [[milliseconds(connection) for connection in connections] for _ in range(num_requests)]
    alone, through = (statistics.median(side) for side in zip(*pairs, strict=True))
    return through - alone


def interval(values: list[float]) -> str:
    """Return a median with its bootstrap interval."""
    resampled = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{statistics.median(values):.3f} (95 % CI {low:.3f}-{high:.3f}, {len(values)} rounds)"


def report(name: str, rounds: list[float]) -> None:
    """Print what one side adds."""
    print(f"latency added by {name}, p50 in ms: {interval(rounds)}, bar {BAR_MS:g}")


def weight_changes(router: EnvoyRouter, route: Route, first_generation: int, num_changes: int) -> list[float]:
    """Return how long each change of the weight took until it was in force, in ms."""
    took = []
    for number in range(num_changes):
        split = Split(canary_bp=(number % 5 + 1) * FULL_BP // 10)
        started = time.perf_counter()
        router.apply(Route(SERVICE, route.port, route.stable, route.canary, split, True), first_generation + number)
        took.append(1000.0 * (time.perf_counter() - started))
    return took


def main() -> None:
    """Measure both and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--requests", type=int, default=500, help="requests per side and round (default 500)")
    parser.add_argument("--changes", type=int, default=50, help="weight changes (default 50)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        stable, canary = (stack.enter_context(copy(name)) for name in ("one", "two"))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(home=home, service_ports="18500-18549")
        envoy = LiveEnvoy(settings)
        stack.callback(envoy.kill)
        router = EnvoyRouter(settings)
        ports = iter(router.free_ports())
        port = next(ports)
        bare = next(ports)
        stack.enter_context(between(bare, stable.address.port, percent=0))
        wait_for(lambda: not is_free(bare), "the peer listens")
        report("a bare Envoy", [added(stable.address.port, bare, options.requests) for _ in range(options.rounds)])
        plain = Route(SERVICE, port, stable, None)
        everything = Route(SERVICE, port, stable, canary, Split(500, FULL_BP), True, session_header="X-User")
        for generation, (name, route) in enumerate({"plain": plain, "with everything on": everything}.items(), 1):
            router.apply(route, generation)
            rounds = [added(stable.address.port, port, options.requests) for _ in range(options.rounds)]
            report(f"the router, {name}", rounds)
        took = weight_changes(router, everything, 3, options.changes)
    print(f"a new weight is in force after {statistics.median(took):.0f} ms (longest {max(took):.0f} ms)")
    print(f"weight changes per second: {1000 * len(took) / sum(took):.1f}")


if __name__ == "__main__":
    main()
