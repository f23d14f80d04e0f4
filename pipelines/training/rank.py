"""The process of one rank; torchrun starts it once per rank."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from pathlib import Path

from pipelines.errors import ExitCode, SlipwayError, StoreUnavailable
from pipelines.training.agent import die_with_agent
from pipelines.training.job import TrainingJob


def main(job_file: str) -> int:
    """Train as one rank. A rank that knows why it fails leaves the reason for the step to tell."""
    die_with_agent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    job = TrainingJob.load(Path(job_file))
    failure = job.failures_folder / f"rank-{os.environ['RANK']}.json"
    failure.unlink(missing_ok=True)
    try:
        _train(job)
    except SlipwayError as error:
        failure.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}), encoding="utf-8")
        return error.exit_code
    return ExitCode.DONE


def _train(job: TrainingJob) -> None:
    from pipelines.training.loop import train
    from pipelines.training.strategies import open_strategy

    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    try:
        with open_strategy(job.training, job.workspace / f"rendezvous-{attempt}") as strategy:
            train(job, strategy)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreUnavailable(
            f"training: no space left in {job.workspace}; free space, then clear the task"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
