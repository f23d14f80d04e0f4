"""The process between a step and its ranks: torchrun, tied to its parent, with its ranks tied to it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from pipelines import process
from pipelines.training.imports import quick_imports

AGENT_PID = "SLIPWAY_AGENT_PID"
"""Variable with the process id of the agent, for its ranks."""

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments; leave `failure.json` beside the job when a rank failed."""
    process.die_with_parent()
    os.environ[AGENT_PID] = str(os.getpid())
    with quick_imports():
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        from pipelines.training import rendezvous

    rendezvous.register()
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        report = {"rank": rank, "exit_code": failure.exitcode}
        Path(arguments[-1]).with_name("failure.json").write_text(json.dumps(report), encoding="utf-8")
        return 1
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def die_with_agent() -> None:
    """Let the kernel end this rank as soon as the agent ends, however it ends.

    The agent starts ranks from its main thread, so the signal follows the process. torchrun gives each rank a session
    of its own: the end of the agent's group does not reach them.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    agent = os.environ.get(AGENT_PID, "")
    if agent and os.getppid() != int(agent):  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
