"""A taken port is named, with its holder and the setting to change."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from pytest_socket import enable_socket

from pipelines.errors import StackError
from pipelines.stack import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """Listen on a port of the loopback interface."""
    enable_socket()
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


def test_taken_port_is_named_with_holder_and_setting(taken: int) -> None:
    message = rf"port {taken} on 127.0.0.1 is taken by .*\(pid {os.getpid()}\).* set SLIPWAY_AIRFLOW_PORT"

    with pytest.raises(StackError, match=message):
        ports.require_free({"SLIPWAY_AIRFLOW_PORT": taken})


def test_port_is_free_again_when_its_server_ended(taken: int) -> None:
    assert not ports.is_free(taken)
    with socket.socket() as other:
        other.bind((ports.LOOPBACK, 0))
        left = other.getsockname()[1]
    assert ports.is_free(left)
