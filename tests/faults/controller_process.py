"""The controller's process with copies that are quick to start: `python -m tests.faults.controller_process`."""

from __future__ import annotations

import logging

from pipelines.formats import bento
from pipelines.release.controller import run_controller
from pipelines.settings import Settings
from tests.steps.release_stage import serve_command

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    bento.serve_command = serve_command
    run_controller(Settings())
