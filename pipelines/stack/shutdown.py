"""Stop everything in the order in which nobody loses what it still needs, then prove that it is gone."""

from __future__ import annotations

import logging
import shutil
from functools import partial

from pipelines.errors import StackError
from pipelines.stack import airflow, ports, postgres
from pipelines.stack.layout import Layout
from pipelines.stack.processes import Identity, Stack
from pipelines.stack.programs import CONTROLLER
from pipelines.stack.supervisor import Supervisor
from pipelines.stack.waiting import wait_until

logger = logging.getLogger(__name__)

STOP_SECONDS = 60.0


def stop(layout: Layout, supervisor: Supervisor) -> None:
    """Stop all programs and supervisord; whatever does not obey, or was orphaned, is ended by force.

    Raises:
        StackError: when a port is still held by somebody.
    """
    identity = Identity.load(layout.supervisor_identity)
    try:
        if supervisor.is_alive():
            _stop_programs(supervisor)
            supervisor.shutdown()
            wait_until(lambda: identity is None or not identity.is_alive(), STOP_SECONDS, "supervisord does not end")
    except StackError as error:
        logger.warning("%s; ending what is left by force", error)
    Stack(layout.home, identity).end()
    shutil.rmtree(layout.run_dir, ignore_errors=True)
    for port in identity.ports if identity else ():
        if not ports.is_free(port):
            raise StackError(f"the stack has ended, but port {port} is held by {ports.holder(port)}")


def _stop_programs(supervisor: Supervisor) -> None:
    """Stop who decides and schedules, then who serves; Postgres is left to supervisord's own end."""
    deciders = {CONTROLLER, *airflow.COMPONENTS}
    names = {state.name for state in supervisor.states()}
    for group in (names & deciders, names - deciders - {postgres.NAME}):
        for name in group:
            supervisor.stop(name)
        wait_until(partial(_all_stopped, supervisor, group), STOP_SECONDS, f"{', '.join(group)} did not stop")


def _all_stopped(supervisor: Supervisor, names: set[str]) -> bool:
    return all(state.is_stopped for state in supervisor.states() if state.name in names)
