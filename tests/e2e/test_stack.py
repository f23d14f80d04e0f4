"""`up`, `down`, `status`: all or nothing, one at a time, supervised, and gone when it is gone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import httpx
import psutil
import pytest

from pipelines.stack import airflow, ports
from pipelines.stack.airflow_api import AirflowApi
from pipelines.stack.layout import Layout
from pipelines.stack.processes import Identity
from tests.e2e.conftest import LocalStack, wait_for

PROGRAMS = {
    "airflow-api-server",
    "airflow-dag-processor",
    "airflow-scheduler",
    "airflow-triggerer",
    "controller",
    "envoy",
    "postgres",
}


def test_everything_runs_and_status_says_so(stack: LocalStack) -> None:
    status = stack.run("status")

    assert status.returncode == 0, status.stdout
    assert {name for name, state in stack.states().items() if state.is_running} >= PROGRAMS
    assert airflow.base_url(stack.settings) in status.stdout


def test_pools_are_there_before_anything_could_wait_for_them(stack: LocalStack) -> None:
    api = AirflowApi.of(stack.settings)

    assert all(api.has_pool(name) for name in airflow.POOLS)


def test_nothing_listens_beyond_the_loopback_interface(stack: LocalStack) -> None:
    ours = set(stack.processes())
    listening = [
        connection.laddr
        for connection in psutil.net_connections(kind="inet")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]

    assert listening != []
    assert {address.ip for address in listening} == {ports.LOOPBACK}


def test_wrong_password_is_refused(stack: LocalStack) -> None:
    body = {"username": airflow.USER, "password": "guess"}

    assert httpx.post(f"{airflow.base_url(stack.settings)}/auth/token", json=body).status_code == 401


def test_two_more_ups_at_once_change_nothing(stack: LocalStack) -> None:
    before = {name: state.pid for name, state in stack.states().items()}
    both = [stack.start("up"), stack.start("up")]
    outputs = [process.communicate(timeout=120)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], outputs
    assert all("already running" in output for output in outputs)
    assert {name: state.pid for name, state in stack.states().items()} == before


@pytest.mark.parametrize("name", ["envoy", "controller", "airflow-scheduler"])
def test_killed_program_is_supervised_back(stack: LocalStack, name: str) -> None:
    victim = stack.states()[name].pid
    os.kill(victim, signal.SIGKILL)

    wait_for(lambda: (state := stack.states()[name]).is_running and state.pid != victim, 60, f"{name} runs again")


def test_taken_port_is_refused_before_anything_is_made(make_stack: Callable[[], LocalStack]) -> None:
    fresh = make_stack()
    with socket.socket() as squatter:
        squatter.bind((ports.LOOPBACK, fresh.settings.airflow_port))
        squatter.listen()
        refused = fresh.run("up")

    assert refused.returncode == 20
    assert f"error: port {fresh.settings.airflow_port} on 127.0.0.1 is taken by" in refused.stdout
    assert "SLIPWAY_AIRFLOW_PORT" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert [path.name for path in Layout.of(fresh.settings).home.iterdir()] == ["stack.lock"]


def test_down_and_status_without_a_stack_say_so_and_make_nothing(make_stack: Callable[[], LocalStack]) -> None:
    absent = make_stack()
    down, status = absent.run("down"), absent.run("status")

    assert (down.returncode, status.returncode) == (0, 1), status.stdout
    assert "There is no stack" in down.stdout
    assert "NOT STARTED" in status.stdout
    assert not absent.settings.home.exists()


@pytest.mark.slow
def test_life_and_death(make_stack: Callable[[], LocalStack]) -> None:
    """Up, the supervisor killed, its orphans found by the next `up`, killed again, and gone after `down`."""
    one = make_stack()
    assert one.run("up").returncode == 0
    before = one.processes()
    kill_supervisor(one)
    assert set(one.processes()) & set(before), "the control: a killed supervisor does leave orphans"

    again = one.run("up")
    assert again.returncode == 0, again.stdout
    assert "left behind" in again.stdout
    assert not set(one.processes()) & set(before)

    kill_supervisor(one)
    down = one.run("down")
    assert down.returncode == 0, down.stdout
    assert "no process and no port is left" in down.stdout
    one.assert_gone()
    assert one.run("status").returncode == 1


def kill_supervisor(stack: LocalStack) -> None:
    """Kill supervisord, and only it, without a chance to stop its programs."""
    identity = Identity.load(Layout.of(stack.settings).supervisor_identity)
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    wait_for(lambda: not identity.is_alive(), 10, "supervisord is dead")
