"""S3 over a bad line: through an Envoy that fails or delays requests, or a proxy that cuts and damages chosen ones.

Envoy's fault filter knows no cut or changed bodies, so these need a proxy of our own.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.retries.standard import ExponentialBackoff

from pipelines.storage import parts
from pipelines.store import Store
from tests.faulty_line import FaultyLine
from tests.live_s3 import LiveS3
from tests.load.fault_envoy import passing
from tests.ports import own_port
from tests.steps.live import wait_for

SMALL = b'{"step": 1200}'
LARGE = random.Random(0).randbytes(parts.PART_BYTES + 12_345)  # noqa: S311 - data, no secret
"""Two parts."""

OFTEN_BUSY = {"abort": {"http_status": 503, "percentage": {"numerator": 30}}}
SLOW = {"delay": {"fixed_delay": "3s", "percentage": {"numerator": 100}}}

BehindEnvoy = Callable[[dict[str, Any]], AbstractContextManager[None]]
"""Puts an Envoy with a fault before S3, for a block."""


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever tries again do so at once."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
    monkeypatch.setattr(parts, "_LONGEST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def line(s3: LiveS3, s3_environment: None, no_pauses: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    """Return a line through which this process reaches S3."""
    made = FaultyLine(s3.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.stop()


def stored(s3: LiveS3, store: Store) -> dict[str, bytes]:
    """Return all objects as they lie at the server."""
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return {key.removeprefix(f"{prefix}/"): data for key, data in s3.objects(bucket).items()}


@pytest.fixture
def envoy(s3: LiveS3, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> BehindEnvoy:
    """Return what puts an Envoy with a fault before S3."""

    @contextmanager
    def start(fault: dict[str, Any]) -> Iterator[None]:
        port, upstream = own_port(), urlsplit(s3.url).port
        assert upstream
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with passing(port, upstream, lambda faulty: [{"match": {"prefix": "/"}, **faulty(fault)}]):
            wait_for(_is_reachable, "Envoy")
            yield

    return start


def _is_reachable() -> bool:
    """Return whether something listens where S3 should be."""
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0
