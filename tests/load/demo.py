"""What `make run` shows: a first release, then a second version that goes out by canary while users send requests.

    python -m tests.load.demo docs-gpt

Everything that is released goes the product's own way; only the users are made here.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.errors import SlipwayError
from pipelines.settings import Settings, read_settings
from pipelines.stack import trigger_and_follow
from tests.load.client import read_ledger, summary

SECOND_SEED, SECOND_STEPS = 3, 760
"""The challenger: other random numbers, and a few more steps."""

FIRST_SECONDS = 60.0
"""Longest until the first user has come: a client's start, and its longest wait for an answer."""


class NoUsers(SlipwayError):
    """The load client does not work."""


@contextlib.contextmanager
def users(url: str, ledger: Path, *, rate: float = 15.0) -> Iterator[None]:
    """Let users send requests while a block runs; it begins when the first of them has an answer, or none.

    Raises:
        NoUsers: when none comes.
    """
    ledger.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.load.client", "--url", url, "--rate", str(rate), "--ledger", str(ledger)]
    client = subprocess.Popen(command)
    try:
        _await_first(client, ledger)
        yield
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(timeout=60)


def _await_first(client: subprocess.Popen[bytes], ledger: Path) -> None:
    deadline = time.monotonic() + FIRST_SECONDS
    while not (ledger.exists() and ledger.stat().st_size):
        if client.poll() is not None or time.monotonic() > deadline:
            raise NoUsers(f"no user came within {FIRST_SECONDS:.0f} s, or the load client ended")
        time.sleep(0.05)


def demonstrate(settings: Settings, model: str) -> None:
    """Release twice; the second time under traffic.

    Raises:
        SlipwayError: when a run ends red, or the endpoint does not serve what was released.
    """
    first = trigger_and_follow(settings, model, {})
    ledger = settings.resolved_home() / "logs" / "load-client.jsonl"
    print(f"\nUsers now send requests to {first.endpoint}; a second version goes out to them step by step.", flush=True)
    second = {"seed": SECOND_SEED, "max_steps": SECOND_STEPS, "note": "the second version of `make run`"}
    with users(first.endpoint, ledger):
        trigger_and_follow(settings, model, second)
    print(f"\nThe users saw {summary(read_ledger(ledger))}", flush=True)


def main() -> int:
    """Parse the command line, show it, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="docs-gpt")
    model = parser.parse_args().model
    return exit_status(lambda: demonstrate(read_settings(), model))


def exit_status(act: Callable[[], object]) -> int:
    """Do something and return the exit status; a plain error is one line."""
    try:
        act()
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
