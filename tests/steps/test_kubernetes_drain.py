"""A pod waits for its answers before it ends: the hook's own text, in a process of its own, against real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.release.kubernetes import drain
from tests.steps.live import wait_for

ADDRESS = "127.0.0.2"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a socket that listens on an address of its own."""
    with socket.create_server((ADDRESS, 0)) as found:
        yield found


def hook(listener: socket.socket, least: float, most: float) -> subprocess.Popen[bytes]:
    """Run what a pod's `preStop` runs."""
    port = str(listener.getsockname()[1])
    command = [sys.executable, "-c", Path(drain.__file__).read_text(), port, str(least), str(most)]
    return subprocess.Popen(command, env={**os.environ, "POD_IP": ADDRESS, "PYTHONPATH": ""})


def test_an_idle_pod_ends_after_the_least_time(listener: socket.socket) -> None:
    begun = time.monotonic()
    assert hook(listener, 0.5, 60).wait(30) == 0
    assert time.monotonic() - begun >= 0.5


def test_a_pod_waits_for_its_last_answer(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert drain.num_connections(ADDRESS, listener.getsockname()[1]) == 1
        waiting = hook(listener, 0, 60)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    wait_for(lambda: waiting.poll() == 0, "the end of the wait")


def test_a_pod_does_not_wait_for_ever(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert hook(listener, 0, 0.5).wait(30) == 0


def test_connections_of_others_do_not_count(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert drain.num_connections("127.0.0.3", listener.getsockname()[1]) == 0
