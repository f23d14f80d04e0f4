"""A process between torchrun, which ends all ranks when one of them dies, and a rank that the others can spare."""

from __future__ import annotations

import logging
import os
import signal

from pipelines.training.agent import AGENT_PID, die_with_agent

logger = logging.getLogger(__name__)


def shield_others() -> None:
    """Go on in a child of this process, which ends as its child does, but calls a death by a signal a success.

    A child that fails by itself, with an exit status, knows of a fault that the others have too, so that is passed on.
    Call this while the process has one thread.
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.environ[AGENT_PID] = str(parent)
        die_with_agent()
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        name = signal.Signals(-status).name
        logger.error("rank %s was ended by %s; the others go on without it", os.environ["RANK"], name)
    os._exit(max(0, status))
