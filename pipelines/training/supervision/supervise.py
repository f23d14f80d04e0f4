"""Run a training's processes to their end: pass on their progress, tell why they failed, leave none behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator

from pipelines import process
from pipelines.errors import RanksFailed, SlipwayError, TrainingStopped
from pipelines.settings import REPOSITORY, read_settings
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.launch import agent_command, num_cores, rank_environment
from pipelines.training.supervision.events import EventKind
from pipelines.training.supervision.failure import TAIL_LINES, death_in, ending, explain_failure, final_reason
from pipelines.training.supervision.hangs import HangBreaker
from pipelines.training.supervision.heartbeat import read_heartbeats
from pipelines.training.supervision.out_of_memory import MemoryGroup, explain_kill
from pipelines.training.supervision.progress import Progress, Report
from pipelines.training.supervision.telemetry import Telemetry

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5

GRACE_SECONDS = 2.0
"""How long torchrun may take to end its ranks before it is killed; the kernel then ends the ranks."""


def supervise(job: TrainingJob, report: Report) -> Resumption:
    """Train, and return where the training went on; its results are in the job's workspace.

    However this function or its process ends, the ranks end with it. SIGTERM lets them finish their step and save it.

    Raises:
        TrainingStopped: SIGTERM came before the last step; what was done is saved.
        TrainingDiverged: the loss was out of order, and the spec says to stop then.
        OutOfMemory: a rank was given no more memory; says how much there is, and what would fit.
        StoreUnavailable: a checkpoint could not be written or read.
        RanksFailed: a rank died, or hung and was ended; carries its stack, or the last lines of its log.
    """
    job.save()
    group = _start(job)
    telemetry = Telemetry.of(job, read_settings())
    watch = Watch(job, report, telemetry)
    reader = threading.Thread(target=lambda: watch.hear(group.lines()), name="torchrun output", daemon=True)
    reader.start()
    try:
        with _saved_at_sigterm(job):
            while reader.is_alive():
                reader.join(POLL_SECONDS)
                watch.look()
    except BaseException:
        group.stop(GRACE_SECONDS)
        group.wait()
        raise
    finally:
        telemetry.close()
    if group.wait() != 0:
        raise watch.explain_failure()
    if job.stop_file.exists() and not job.model_folder.exists():
        raise TrainingStopped("training: told to end; what was done is saved, and the next try goes on from there")
    return watch.progress.resumption or Resumption(step=0)


def _start(job: TrainingJob) -> process.Group:
    command = agent_command(
        job.file,
        ranks=job.training.ranks,
        max_restarts=job.training.max_restarts,
        place=job.place,
        join_seconds=job.training.watchdog.start_seconds,
        workspace=job.workspace,
        logs=job.logs_folder,
    )
    environment = rank_environment(
        os.environ, ranks=job.training.ranks, num_cores=num_cores(os.environ), place=job.place
    )
    group = process.Group(command, environment=environment, directory=REPOSITORY)
    logger.info("training: %d ranks, %s threads each", job.training.ranks, environment["OMP_NUM_THREADS"])
    return group


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


class Watch:
    """Everything that is looked after while torchrun runs."""

    def __init__(self, job: TrainingJob, report: Report, telemetry: Telemetry) -> None:
        self._job = job
        self._output: deque[str] = deque(maxlen=TAIL_LINES)
        self._hangs = HangBreaker(job)
        self._memory = MemoryGroup.of_this_process()
        self._kills_before = self._memory.num_kills()
        self._death: tuple[int, int] | None = None
        self.progress = Progress(job, report, telemetry)

    def hear(self, lines: Iterator[str]) -> None:
        """Take what torchrun prints."""
        for line in lines:
            self._output.append(line)
            if death := death_in(line):
                self._death = self._global_rank(death[0]), death[1]

    def look(self) -> None:
        """Pass on what is new, and end what hangs.

        Raises:
            SlipwayError: a rank's own reason that every restart would meet again.
        """
        beats = read_heartbeats(self._job.heartbeats_folder)
        attempt = max((beat.attempt for beat in beats.values()), default=0)
        if attempt > self.progress.num_restarts:
            self.progress.restarted(attempt, self._why_restarted())
        self.progress.forward(beats)
        for hung in self._hangs.look(beats):
            self.progress.tell(EventKind.HANG, self._hangs.stories[hung.rank])
        if reason := final_reason(self._job) or self._final_kill():
            raise reason

    def explain_failure(self) -> SlipwayError:
        """Return why torchrun ended with an error."""
        return explain_failure(self._job, list(self._output), self._explain_kill)

    def _why_restarted(self) -> str:
        return f"rank {self._death[0]} {ending(self._death[1])}" if self._death else "torchrun does not say why"

    def _final_kill(self) -> SlipwayError | None:
        """Return why a rank was killed when every restart would end so."""
        if self._death is None or self._death[1] != -signal.SIGKILL:
            return None
        reason = self._explain_kill(self._death[0])
        return None if reason is None or reason.retryable else reason

    def _explain_kill(self, rank: int) -> SlipwayError | None:
        """Return who sent SIGKILL to a rank, if that is known."""
        if story := self._hangs.stories.get(rank):
            return RanksFailed(f"training: {story}\nIt was ended; a retry goes on from the newest checkpoint")
        if self._memory.num_kills() == self._kills_before:
            return None
        on_gpu = any(beat.device for beat in read_heartbeats(self._job.heartbeats_folder).values())
        used, limit = self.progress.peak_memory_bytes, self._memory.limit_bytes()
        return explain_kill(rank, used, limit, self._job.training, on_gpu=on_gpu)

    def _global_rank(self, local_rank: int) -> int:
        place = self._job.place
        return place.node_rank * place.local_ranks(self._job.training.ranks) + local_rank
