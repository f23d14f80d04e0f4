"""`up`, `down` and `status`: the whole stack or nothing, one caller at a time."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.settings import Settings
from pipelines.stack import airflow, ports
from pipelines.stack.layout import Layout
from pipelines.stack.processes import Identity, Stack
from pipelines.stack.shutdown import stop
from pipelines.stack.startup import missing, start_programs, start_supervisor
from pipelines.stack.supervisor import Supervisor
from pipelines.stack.waiting import wait_until

LOCK_SECONDS = 240.0


def up(settings: Settings) -> None:
    """Start the stack, or what is missing of it; return when everything is healthy.

    Raises:
        StackError: when a port is taken or a program does not come up; then nothing that this call started is left.
    """
    layout = Layout.of(settings)
    began = time.monotonic()
    with only_one(layout):
        supervisor = Supervisor(layout.supervisor_socket)
        if supervisor.is_alive():
            print(_complete(settings, supervisor))
        else:
            _start(settings, supervisor)
            print(f"The stack is up after {time.monotonic() - began:.0f} s.")
    print(f"Airflow: {airflow.base_url(settings)}  {airflow.credentials(settings)}")


def down(settings: Settings) -> None:
    """Stop everything, bentos included, and check that no process and no port is left.

    Raises:
        StackError: when something could not be ended.
    """
    layout = Layout.of(settings)
    if not layout.home.exists():
        print(f"There is no stack in {layout.home}.")
        return
    began = time.monotonic()
    with only_one(layout):
        if not Stack(layout.home, Identity.load(layout.supervisor_identity)).processes():
            shutil.rmtree(layout.run_dir, ignore_errors=True)
            print("The stack is not running.")
            return
        stop(layout, Supervisor(layout.supervisor_socket))
    print(f"The stack is down after {time.monotonic() - began:.0f} s: no process and no port is left.")


def _complete(settings: Settings, supervisor: Supervisor) -> str:
    """Start what has ended for good in a running stack; return what to say."""
    ended = missing(settings, supervisor)
    if not ended:
        return "The stack is already running."
    start_programs(settings, supervisor)
    return f"The stack is already running; started again: {', '.join(ended)}."


def _start(settings: Settings, supervisor: Supervisor) -> None:
    layout = Layout.of(settings)
    leftovers = Stack(layout.home, Identity.load(layout.supervisor_identity)).end()
    if leftovers:
        print(f"Ended {len(leftovers)} processes that a killed stack had left behind.")
    ports.require_free({"SLIPWAY_AIRFLOW_PORT": settings.airflow_port})
    try:
        start_supervisor(settings, supervisor)
        start_programs(settings, supervisor)
    except BaseException:
        stop(layout, supervisor)
        raise


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the stack's lock; whoever comes second waits, and says so."""
    layout.home.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("w") as stream:
        if not _try_lock(stream.fileno()):
            print("Another `up` or `down` is at work on this stack; waiting for it.", flush=True)
            wait_until(
                lambda: _try_lock(stream.fileno()), LOCK_SECONDS, f"{layout.lock} is held by another `up` or `down`"
            )
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
