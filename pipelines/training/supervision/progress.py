"""Follow a training by the files of its ranks, and pass on what is new."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.errors import StoreUnavailable
from pipelines.training.files import append_line, parse_lines
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.metrics import Reading
from pipelines.training.supervision.events import Event, EventKind
from pipelines.training.supervision.heartbeat import Heartbeat
from pipelines.training.supervision.out_of_memory import gib
from pipelines.training.supervision.telemetry import Snapshot, Telemetry
from pipelines.training.supervision.usage import Usage, UsageMeter

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
"""Least time between two progress lines in the log."""

Report = Callable[..., None]


class Progress:
    """Follows rank 0's files and everyone's heartbeats: to the task log, the store, and wherever people watch."""

    def __init__(self, job: TrainingJob, report: Report, telemetry: Telemetry) -> None:
        self._job = job
        self._report = report
        self._telemetry = telemetry
        self._metrics = LineFollower(job.metrics_file)
        self._incidents = LineFollower(job.incidents_file)
        self._meter = UsageMeter()
        self._logged_at = 0.0
        self._step = 0
        self.num_restarts = 0
        self.resumption: Resumption | None = None
        """Where the newest attempt went on; None before it said so."""

    @property
    def peak_memory_bytes(self) -> int:
        """What all ranks of this machine used at most."""
        return self._meter.peak_memory_bytes

    def forward(self, beats: Mapping[int, Heartbeat]) -> None:
        """Pass on what is new. A store that is away is no reason to stop a training."""
        self._forward_resumption()
        for incident in parse_lines(self._incidents.new_lines(), Event):
            self._tell(incident)
        usage = self._meter.measure(beats)
        readings = list(parse_lines(self._metrics.new_lines(), Reading))
        if readings:
            self._step = readings[-1].step
            self._log(readings[-1], usage)
            self._put(readings[-1], usage)
            self._telemetry.show(Snapshot(readings, usage, self.num_restarts))

    def restarted(self, num_restarts: int, why: str) -> None:
        """Tell that torchrun has started the ranks again."""
        self.num_restarts = num_restarts
        allowed = self._job.training.max_restarts
        text = f"the ranks were started again: {why} (training.max_restarts: {num_restarts} of {allowed})"
        self.tell(EventKind.RESTART, text)

    def tell(self, kind: EventKind, text: str) -> None:
        """Write what happened to the log and to the training's own record."""
        self._tell(Event(kind=kind, step=self._step, text=text))

    def _tell(self, event: Event) -> None:
        logger.log(logging.INFO if event.kind is EventKind.RESUMPTION else logging.WARNING, "training: %s", event.text)
        append_line(self._job.events_file, event)

    def _log(self, reading: Reading, usage: Usage) -> None:
        if time.monotonic() - self._logged_at >= LOG_SECONDS or reading.step == self._job.training.max_steps:
            self._logged_at = time.monotonic()
            logger.info("training: %s", describe(reading, usage, self._job.training.max_steps))

    def _put(self, reading: Reading, usage: Usage) -> None:
        numbers = reading.model_dump(include={"step", "loss", "tokens_per_second", "eta_seconds", "seconds"})
        try:
            self._report(max_steps=self._job.training.max_steps, **numbers, **_usage_numbers(usage))
        except StoreUnavailable as error:
            logger.warning("training: progress not reported: %s", error)

    def _forward_resumption(self) -> None:
        resumption = read_resumption(self._job.resumption_file)
        if resumption is None or resumption == self.resumption:
            return
        self.resumption = resumption
        self._step = resumption.step
        for damage in resumption.damages:
            self.tell(EventKind.DAMAGE, f"{damage}; going back to the checkpoint before")
        if resumption.step:
            self.tell(EventKind.RESUMPTION, f"going on after step {resumption.step} of {self._job.training.max_steps}")


class LineFollower:
    """Reads what is appended to a file of lines, also when somebody begins the file anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def new_lines(self) -> list[str]:
        """Return the whole lines since the last call."""
        try:
            with self._file.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode().splitlines()


def describe(reading: Reading, usage: Usage, max_steps: int) -> str:
    """Return where a training is and what it uses, in one line."""
    parts = [
        f"step {reading.step} of {max_steps}",
        f"loss {reading.loss:.3f}",
        f"{reading.tokens_per_second:.0f} tokens/s",
        f"{usage.cpu_cores:.1f} cores",
        f"{gib(usage.memory_bytes)} memory",
    ]
    if usage.gpu_utilization is not None:
        parts.append(f"GPU {100 * usage.gpu_utilization:.0f} %")
    if usage.gpu_memory_bytes is not None and usage.gpu_memory_total_bytes is not None:
        parts.append(f"GPU memory {gib(usage.gpu_memory_bytes)} of {gib(usage.gpu_memory_total_bytes)}")
    return ", ".join(parts)


def read_resumption(file: Path) -> Resumption | None:
    """Return what rank 0 said, or None while it has not."""
    try:
        return Resumption.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _usage_numbers(usage: Usage) -> dict[str, float]:
    numbers = {
        "cpu_cores": usage.cpu_cores,
        "memory_bytes": usage.memory_bytes,
        "gpu_memory_bytes": usage.gpu_memory_bytes,
        "gpu_utilization": usage.gpu_utilization,
    }
    return {name: round(value, 3) for name, value in numbers.items() if value is not None}
