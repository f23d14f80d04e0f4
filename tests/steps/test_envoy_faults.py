"""A canary's whole process group killed behind a real Envoy: users do not notice, and the canary's counts do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.release.ports import FULL_BP, Arm
from pipelines.settings import Settings
from tests.ports import own_port, own_ranges
from tests.steps import copy_server
from tests.steps.envoy_case import Endpoint, running_endpoint, total, users
from tests.steps.live import Load, wait_for

LARGE = {"prompt": "x" * 108_000}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    settings = Settings(home=tmp_path_factory.mktemp("envoy"), **own_ranges())
    with running_endpoint(settings) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint) -> Endpoint:
    return running.reset()


class Copy:
    """A canary in a process group of its own, in place of the endpoint's second server."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.port = own_port()
        (folder / "src").mkdir(parents=True)
        known = {"version": "two", "digest": "2" * 64, "answers": {}}
        (folder / "src" / "copy.json").write_text(json.dumps(known))
        command = [sys.executable, copy_server.__file__, str(folder), str(self.port)]
        self.process = subprocess.Popen(command, start_new_session=True)
        endpoint.canary = endpoint.target("three", self.port)
        wait_for(self.is_ready, "the canary is ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """Kill supervisor and worker at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def kill_under_load(endpoint: Endpoint, folder: Path, *, is_idempotent: bool = True) -> tuple[Load, str]:
    """Kill the canary at half of the users; return what the clients saw, and the cursor of the beginning."""
    canary = Copy(folder, endpoint)
    try:
        endpoint.apply(5000, is_idempotent=is_idempotent)
        since = endpoint.cursor()
        with Load(endpoint.url, clients=8, body=LARGE) as load:
            wait_for(lambda: load.by("two") > 20, "answers of the canary")
            canary.kill()
            stable = load.by("one")
            wait_for(lambda: load.by("one") > stable + 100, "answers of stable after the kill")
    finally:
        canary.kill()
    return load, since


def test_a_killed_canary_costs_no_request_and_is_counted_against_it(endpoint: Endpoint, tmp_path: Path) -> None:
    load, since = kill_under_load(endpoint, tmp_path)
    answered = sum(load.answers.values())
    counts = endpoint.counts(since, answered)
    canary = users(counts, Arm.CANARY)

    assert load.failures == []
    assert total(counts) == answered
    assert canary.exposures - canary.bad == load.by("two"), "what stable did for the canary is bad for the canary"
    assert canary.bad > 20
    assert users(counts, Arm.STABLE).bad == 0


def test_without_retries_the_same_kill_is_felt(endpoint: Endpoint, tmp_path: Path) -> None:
    load, _ = kill_under_load(endpoint, tmp_path, is_idempotent=False)
    assert load.failures


def test_an_open_stream_of_a_killed_canary_ends_with_an_error_and_counts_as_bad(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    canary = Copy(tmp_path, endpoint)
    endpoint.apply(FULL_BP)
    since = endpoint.cursor()
    with endpoint.stream() as stream:
        canary.kill()
        stream.wait()
    found = users(endpoint.counts(since, 1), Arm.CANARY)

    assert stream.version == "two"
    assert isinstance(stream.error, httpx.RemoteProtocolError)
    assert (found.exposures, found.bad, sum(found.latency)) == (1, 1, 1)


@pytest.mark.slow
def test_ten_killed_canaries_cost_no_request(endpoint: Endpoint, tmp_path: Path) -> None:
    for number in range(10):
        load, _ = kill_under_load(endpoint, tmp_path / str(number))
        assert load.failures == []
