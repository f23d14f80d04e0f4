"""The process of one rank; torchrun starts it once per rank."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import ExitCode, SlipwayError, StoreUnavailable
from pipelines.spec import DilocoConfig
from pipelines.training.agent import die_with_agent
from pipelines.training.imports import quick_imports
from pipelines.training.job import TrainingJob
from pipelines.training.supervision.failure import leave_reason, prepare_reason
from pipelines.training.supervision.hangs import STACK_SIGNAL, stack_file
from pipelines.training.supervision.out_of_memory import explain_refusal
from pipelines.training.supervision.shield import shield_others


def main(job_file: str) -> int:
    """Train as one rank. A rank that knows why it fails leaves the reason for the step to tell."""
    die_with_agent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    job = TrainingJob.load(Path(job_file))
    if isinstance(job.training.strategy, DilocoConfig) and os.environ["RANK"] != "0":  # rank 0 leaves the model
        shield_others()
    reason = prepare_reason(job)
    try:
        with _telling_its_stack(stack_file(job, int(os.environ["RANK"]))):
            _train(job)
    except SlipwayError as error:
        return leave_reason(reason, error)
    return ExitCode.DONE


@contextlib.contextmanager
def _telling_its_stack(file: Path) -> Iterator[None]:
    """Let a signal write every thread's stack to a file, also while this process waits inside a library."""
    with file.open("w", encoding="utf-8") as stream:
        faulthandler.register(STACK_SIGNAL, stream)
        try:
            yield
        finally:
            faulthandler.unregister(STACK_SIGNAL)


def _train(job: TrainingJob) -> None:
    with quick_imports():
        from pipelines.training.loop import train
        from pipelines.training.strategies import open_strategy
        from pipelines.training.supervision.heartbeat import LiveState, beating

    attempt, live = os.environ["TORCHELASTIC_RESTART_COUNT"], LiveState()
    try:
        rendezvous = job.workspace / f"rendezvous-{attempt}" if job.place.num_nodes == 1 else None
        with beating(live, job.heartbeats_folder), open_strategy(job.training, rendezvous) as strategy:
            train(job, strategy, live)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreUnavailable(
            f"training: no space left in {job.workspace}; free space, then clear the task"
        ) from error
    except (MemoryError, RuntimeError) as error:
        refused = explain_refusal(error, job.training)
        if refused is None:
            raise
        raise refused from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
