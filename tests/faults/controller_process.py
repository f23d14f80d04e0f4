"""The controller's process with copies that are quick to start: `python -m tests.faults.controller_process`."""

from __future__ import annotations

import logging
import os
import time

from pipelines.formats import bento
from pipelines.release.controller import run_controller
from pipelines.settings import Settings
from tests.steps.release_stage import serve_command

SKEW_SECONDS = "TEST_SKEW_SECONDS"
"""Environment variable: how far this process's clock is ahead of the others'."""


def skew(seconds: float) -> None:
    """Put this process's clock forward."""
    true_time = time.time
    time.time = lambda: true_time() + seconds


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    skew(float(os.environ.get(SKEW_SECONDS, "0")))
    bento.serve_command = serve_command
    run_controller(Settings())
