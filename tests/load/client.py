"""A load client: users who come at random times, ask for a short completion, and keep what they got.

    python -m tests.load.client --url http://127.0.0.1:8100 --rate 15 --ledger requests.jsonl

Arrivals are a Poisson process that does not wait for answers (open loop). Every request leaves one line: id, seconds,
status, version, digest, hash of the answer, problem. SIGTERM ends it after the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

PROMPTS = (
    "Return the", "Open a file", "A list of", "Convert a string", "Raise an error", "The number of", "Create a new",
    "Read from", "Test whether", "If the argument", "Write the", "This function", "Compute the", "Parse the",
)  # fmt: skip
TIMEOUT_SECONDS = 30.0
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Exchange:
    """One request and what came of it."""

    id: int
    at: float
    """Seconds since the epoch when it was sent."""

    seconds: float
    status: int
    """HTTP status; 0: no answer."""

    version: str
    digest: str
    body: str
    """First characters of the sha256 of the answer."""

    problem: str

    @property
    def is_good(self) -> bool:
        """Say whether the user got an answer."""
        return self.status == httpx.codes.OK and not self.problem


class Users:
    """Sends requests until told to stop."""

    def __init__(self, url: str, *, rate: float, tokens: int, ledger: Path, seed: int) -> None:
        self._url, self._rate, self._tokens = url.rstrip("/"), rate, tokens
        self._random = random.Random(seed)  # noqa: S311 - traffic, not secrets
        self._ledger = ledger
        self._open: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until the event is set, then wait for the answers that are due."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        with self._ledger.open("a", buffering=1) as ledger:
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client:
                number = 0
                due = time.monotonic()
                while not stopping.is_set():
                    due += self._random.expovariate(self._rate)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), max(0.0, due - time.monotonic()))
                        break
                    number += 1
                    task = asyncio.create_task(self._ask(client, number, ledger.write))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
                if self._open:
                    await asyncio.wait(self._open, timeout=GRACE_SECONDS)

    async def _ask(self, client: httpx.AsyncClient, number: int, write: object) -> None:
        body = {"prompt": self._random.choice(PROMPTS), "max_tokens": self._tokens, "temperature": 0}
        at, begun = time.time(), time.perf_counter()
        status, version, digest, content, problem = 0, "", "", b"", ""
        try:
            response = await client.post(f"{self._url}/v1/completions", json=body)
            status, content = response.status_code, response.content
            version = response.headers.get("X-Slipway-Version", "")
            digest = response.headers.get("X-Slipway-Digest", "")
            if status != httpx.codes.OK:
                problem = response.text[:200]
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        exchange = Exchange(
            id=number,
            at=at,
            seconds=round(time.perf_counter() - begun, 4),
            status=status,
            version=version,
            digest=digest,
            body=hashlib.sha256(content).hexdigest()[:16],
            problem=problem,
        )
        write(json.dumps(asdict(exchange)) + "\n")  # type: ignore[operator]  # a file's write


def read_ledger(path: Path) -> list[Exchange]:
    """Return the exchanges of a client's ledger."""
    return [Exchange(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def summary(exchanges: Iterable[Exchange]) -> str:
    """Return what the users saw, in one line per version."""
    listed = list(exchanges)
    return "\n".join(_lines(listed)) if listed else "no request was sent"


def _lines(exchanges: list[Exchange]) -> Iterator[str]:
    bad = [exchange for exchange in exchanges if not exchange.is_good]
    yield f"{len(exchanges)} requests, {len(bad)} without an answer"
    for version, count in sorted(Counter(exchange.version for exchange in exchanges if exchange.is_good).items()):
        seconds = sorted(exchange.seconds for exchange in exchanges if exchange.version == version)
        median, high = seconds[len(seconds) // 2], seconds[int(0.95 * (len(seconds) - 1))]
        yield f"  version {version}: {count} answers, median {1000 * median:.0f} ms, 95 % below {1000 * high:.0f} ms"
    for problem, count in Counter(f"{exchange.status} {exchange.problem}" for exchange in bad).most_common(3):
        yield f"  {count} x {problem}"


async def _main(arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    users = Users(
        arguments.url, rate=arguments.rate, tokens=arguments.tokens, ledger=arguments.ledger, seed=arguments.seed
    )
    await users.run(stopping)


def main() -> None:
    """Parse the command line and send requests until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="endpoint of the service")
    parser.add_argument("--rate", type=float, default=15.0, help="requests per second")
    parser.add_argument("--tokens", type=int, default=8, help="tokens per answer")
    parser.add_argument("--ledger", type=Path, required=True, help="file for one line per request")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
