"""The record of a training: one JSON line per reading; TensorBoard and plots are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.spec import Frozen
from pipelines.training.files import append_line, read_lines


class Reading(Frozen):
    """What happened since the reading before."""

    step: int
    """Optimizer steps done."""

    loss: float
    """Mean cross-entropy in nats per token over all ranks."""

    learning_rate: float
    gradient_norm: float
    """Mean norm before clipping."""

    tokens: int
    """Tokens learnt since the first step."""

    tokens_per_second: float
    seconds: float
    """Seconds of training since the first step, earlier tries included."""

    eta_seconds: float
    at: float
    """Seconds since the epoch."""

    memory_bytes: int = 0
    """What rank 0 held at most so far: of its GPU, or resident in the host's memory."""

    num_incidents: int = 0
    """Losses and gradients that were out of order so far."""


class MetricsLog:
    """Appends readings to a file; starts from an earlier try's where there is one."""

    def __init__(self, file: Path, history: bytes = b"") -> None:
        file.write_bytes(history)
        self._file = file
        readings = read_metrics(file)
        self.seconds_before = readings[-1].seconds if readings else 0.0
        """Seconds that earlier tries trained."""

    def append(self, reading: Reading) -> None:
        """Write one reading; whoever follows the file sees whole lines."""
        append_line(self._file, reading)

    def content(self) -> bytes:
        """Return everything so far."""
        return self._file.read_bytes()


def read_metrics(file: Path) -> list[Reading]:
    """Return the readings in a file; a last line that is still being written is left out."""
    return read_lines(file, Reading)


def write_tensorboard(readings: Sequence[Reading], folder: Path) -> None:
    """Write readings as TensorBoard events, with the times at which they were taken."""
    log = TensorBoardLog(folder)
    for reading in readings:
        log.append(reading, {})
    log.close()


class TensorBoardLog:
    """TensorBoard events in one file, which grows."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        self._step: float = math.inf

    def append(self, reading: Reading, others: Mapping[str, float]) -> None:
        """Write a reading, and other numbers by their tags.

        A reading that goes back first tells TensorBoard to forget later steps: the training went back, too, or began
        where an earlier file of the same folder went on.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if reading.step <= self._step:
            started = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=reading.at, step=reading.step, session_log=started))
        self._step = reading.step
        numbers = {**{f"training/{name}": getattr(reading, name) for name in _SHOWN}, **others}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._writer.add_event(Event(wall_time=reading.at, step=reading.step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Return when everything is in the file."""
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


_SHOWN = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_bytes", "num_incidents")
