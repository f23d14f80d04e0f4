"""Run a training's processes to their end: pass on their progress, tell why they failed, leave none behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines import errors, process
from pipelines.errors import RanksFailed, SlipwayError, StoreUnavailable, TrainingStopped
from pipelines.settings import REPOSITORY
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.launch import agent_command, num_cores, rank_environment
from pipelines.training.metrics import Reading, parse_readings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOG_SECONDS = 10.0
"""Least time between two progress lines in the log."""

GRACE_SECONDS = 2.0
"""How long torchrun may take to end its ranks before it is killed; the kernel then ends the ranks."""

_TAIL_LINES = 15

Report = Callable[..., None]


def supervise(job: TrainingJob, report: Report) -> Resumption:
    """Train, and return where the training went on; its results are in the job's workspace.

    However this function or its process ends, the ranks end with it. SIGTERM lets them finish their step and save it.

    Raises:
        TrainingStopped: SIGTERM came before the last step; what was done is saved.
        TrainingDiverged: the loss stopped being a finite number.
        StoreUnavailable: a checkpoint could not be written or read.
        RanksFailed: a rank died; carries the last lines of its log.
    """
    job.save()
    command = agent_command(
        job.file,
        ranks=job.training.ranks,
        max_restarts=job.training.max_restarts,
        workspace=job.workspace,
        logs=job.logs_folder,
    )
    environment = rank_environment(os.environ, ranks=job.training.ranks, num_cores=num_cores(os.environ))
    group = process.Group(command, environment=environment, directory=REPOSITORY)
    logger.info("training: %d ranks, %s threads each", job.training.ranks, environment["OMP_NUM_THREADS"])
    output: deque[str] = deque(maxlen=_TAIL_LINES)
    reader = threading.Thread(target=lambda: output.extend(group.lines()), name="torchrun output", daemon=True)
    reader.start()
    progress = Progress(job, report)
    try:
        with _saved_at_sigterm(job):
            while reader.is_alive():
                reader.join(POLL_SECONDS)
                progress.forward()
    except BaseException:
        group.stop(GRACE_SECONDS)
        group.wait()
        raise
    if group.wait() != 0:
        raise explain_failure(job, list(output))
    if job.stop_file.exists() and not job.model_folder.exists():
        raise TrainingStopped("training: told to end; what was done is saved, and the next try goes on from there")
    return progress.resumption or Resumption(step=0)


@contextlib.contextmanager
def _saved_at_sigterm(job: TrainingJob) -> Iterator[None]:
    """Let SIGTERM stop the ranks rather than this process: whoever sends it grants a time, and kills after it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def stop(_number: int, _frame: object) -> None:
        logger.warning("training: told to end; the ranks finish their step and save it")
        job.stop_file.touch()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """Follows rank 0's files and passes on what is new."""

    def __init__(self, job: TrainingJob, report: Report) -> None:
        self._job = job
        self._report = report
        self._offset = 0
        self._logged_at = 0.0
        self.resumption: Resumption | None = None
        """Where the newest attempt went on; None before it said so."""

    def forward(self) -> None:
        """Pass on a resumption and the newest reading. A store that is away is no reason to stop a training."""
        self._forward_resumption()
        reading = self._newest_reading()
        if reading is None:
            return
        if time.monotonic() - self._logged_at >= LOG_SECONDS or reading.step == self._job.training.max_steps:
            self._logged_at = time.monotonic()
            logger.info(_TEMPLATE, reading.step, self._job.training.max_steps, reading.loss, reading.tokens_per_second)
        try:
            self._report(
                max_steps=self._job.training.max_steps,
                **reading.model_dump(include={"step", "loss", "tokens_per_second", "eta_seconds", "seconds"}),
            )
        except StoreUnavailable as error:
            logger.warning("training: progress not reported: %s", error)

    def _forward_resumption(self) -> None:
        resumption = read_resumption(self._job.resumption_file)
        if resumption is None or resumption == self.resumption:
            return
        self.resumption = resumption
        for damage in resumption.damages:
            logger.warning("training: %s; going back to the checkpoint before", damage)
        if resumption.step:
            logger.info("training: going on after step %d of %d", resumption.step, self._job.training.max_steps)

    def _newest_reading(self) -> Reading | None:
        """Return the newest whole line since the last call."""
        try:
            with self._job.metrics_file.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0  # a restarted rank began the file anew
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return None
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        readings = list(parse_readings(whole.decode().splitlines()))
        return readings[-1] if readings else None


_TEMPLATE = "training: step %d of %d, loss %.3f, %.0f tokens/s"


def read_resumption(file: Path) -> Resumption | None:
    """Return what rank 0 said, or None while it has not."""
    try:
        return Resumption.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def explain_failure(job: TrainingJob, output: list[str]) -> SlipwayError:
    """Return why a training failed: a rank's own reason, else how the first rank to die ended and its last lines."""
    for reason in sorted(job.failures_folder.glob("rank-*.json")):
        told = json.loads(reason.read_bytes())
        error: SlipwayError = getattr(errors, told["kind"])(told["message"])
        return error
    death = job.workspace / "failure.json"
    if not death.is_file():
        return RanksFailed(f"training: torchrun ended; its last lines:\n{_indent(output)}")
    told = json.loads(death.read_bytes())
    rank, lines = told["rank"], _last_lines(job.logs_folder, told["rank"])
    return RanksFailed(
        f"training: rank {rank} {_ending(told['exit_code'])}; a retry goes on from the newest checkpoint. "
        f"Last lines of its log:\n{_indent(lines)}"
    )


def _ending(exit_code: int) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was ended by {name}{' (killed, or out of memory)' if -exit_code == signal.SIGKILL else ''}"
    return f"ended with exit status {exit_code}"


def _last_lines(logs: Path, rank: int) -> list[str]:
    """Return the end of a rank's newest log; the names are torchrun's."""
    found = sorted(logs.glob(f"*/attempt_*/{rank}/stderr.log"), key=lambda file: file.stat().st_mtime)
    if not found:
        return []
    return found[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]


def _indent(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    (nothing)"
