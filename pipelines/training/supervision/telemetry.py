"""A training's numbers where people watch them while it runs: TensorBoard, a Pushgateway of Prometheus, StatsD."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.settings import Settings
from pipelines.store import Store
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import Reading, TensorBoardLog
from pipelines.training.supervision.usage import Usage

logger = logging.getLogger(__name__)

PUSH_SECONDS = 10.0
UPLOAD_SECONDS = 30.0
UPLOAD_SHARE = 0.01
"""Least time between two uploads of the event file, as a share of the training so far: it grows, and goes whole."""

_TIMEOUT_SECONDS = 2.0
_JOB = "slipway_training"


@dataclass(frozen=True)
class Snapshot:
    """What there is to show."""

    readings: Sequence[Reading]
    """Those that are new; at least one."""

    usage: Usage
    num_restarts: int


class Sink(Protocol):
    """A place where people watch."""

    def show(self, snapshot: Snapshot) -> None:
        """Show what is new. May raise anything: the caller makes a line in the log of it."""

    def close(self) -> None:
        """Show what is left, and stop."""


class Telemetry:
    """All places of one training. What goes wrong with them never disturbs it."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._broken: set[str] = set()

    @classmethod
    def of(cls, job: TrainingJob, settings: Settings) -> Telemetry:
        """Return the places that job and settings name; none for a job without a name, and for a helping machine."""
        if job.place.node_rank > 0 or not job.model:
            return cls([])
        sinks: list[Sink] = []
        if job.tensorboard:
            sinks.append(TensorBoardSink(Store(job.store_url), job.tensorboard))
        if settings.pushgateway:
            sinks.append(PushgatewaySink(settings.pushgateway, job.model))
        if settings.statsd:
            sinks.append(StatsdSink(settings.statsd, job.model))
        return cls(sinks)

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot everywhere."""
        self._each(lambda sink: sink.show(snapshot))

    def close(self) -> None:
        """Stop showing."""
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            name = type(sink).__name__
            try:
                act(sink)
                self._broken.discard(name)
            except Exception as error:  # noqa: BLE001 - numbers must never break the work that they count
                if name not in self._broken:
                    logger.warning("training: %s does not get its numbers: %s", name, error)
                self._broken.add(name)


class TensorBoardSink:
    """TensorBoard events in the store: `tensorboard --logdir <store>/runs` shows every training while it runs."""

    def __init__(self, store: Store, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock
        self._local = tempfile.TemporaryDirectory(prefix="slipway-tensorboard-")
        self._log = TensorBoardLog(Path(self._local.name))
        self._started = clock()
        self._uploaded_at = -math.inf

    def show(self, snapshot: Snapshot) -> None:
        for reading in snapshot.readings:
            self._log.append(reading, {"usage/cpu_cores": snapshot.usage.cpu_cores, **_memory(snapshot.usage)})
        now = self._clock()
        if now - self._uploaded_at >= max(UPLOAD_SECONDS, UPLOAD_SHARE * (now - self._started)):
            self._uploaded_at = now
            self._upload()

    def close(self) -> None:
        if self._uploaded_at > -math.inf:
            self._upload()
        self._log.close()
        self._local.cleanup()

    def _upload(self) -> None:
        self._log.flush()
        for file in Path(self._local.name).iterdir():
            self._store.put(f"{self._folder}/{file.name}", file.read_bytes())


class PushgatewaySink:
    """Gauges `slipway_training_*` in a Pushgateway, labelled by model; they go when the training ends."""

    def __init__(self, address: str, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._grouping = {"model": model}
        self._clock = clock
        self._pushed_at = -math.inf

    def show(self, snapshot: Snapshot) -> None:
        from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

        if self._clock() - self._pushed_at < PUSH_SECONDS:
            return
        self._pushed_at = self._clock()
        registry = CollectorRegistry()
        for name, value in gauges(snapshot).items():
            Gauge(f"slipway_training_{name}", _MEANING[name], registry=registry).set(value)
        push_to_gateway(self._address, _JOB, registry, grouping_key=self._grouping, timeout=_TIMEOUT_SECONDS)

    def close(self) -> None:
        from prometheus_client import delete_from_gateway

        delete_from_gateway(self._address, _JOB, grouping_key=self._grouping, timeout=_TIMEOUT_SECONDS)


class StatsdSink:
    """Gauges `slipway.<model>.training.*` in StatsD."""

    def __init__(self, address: str, model: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._prefix = f"slipway.{model}.training"

    def show(self, snapshot: Snapshot) -> None:
        from statsd import StatsClient

        client = StatsClient(self._host, int(self._port or 8125), prefix=self._prefix)  # asks for the host's address
        for name, value in gauges(snapshot).items():
            client.gauge(name, value)
        client.close()

    def close(self) -> None:
        """Nothing is kept open."""


def gauges(snapshot: Snapshot) -> dict[str, float]:
    """Return the newest numbers by name."""
    reading, usage = snapshot.readings[-1], snapshot.usage
    numbers: Mapping[str, float | None] = {
        "step": reading.step,
        "loss": reading.loss,
        "learning_rate": reading.learning_rate,
        "gradient_norm": reading.gradient_norm,
        "tokens": reading.tokens,
        "tokens_per_second": reading.tokens_per_second,
        "eta_seconds": reading.eta_seconds,
        "incidents": reading.num_incidents,
        "restarts": snapshot.num_restarts,
        "cpu_cores": usage.cpu_cores,
        "memory_bytes": usage.memory_bytes,
        "gpu_memory_bytes": usage.gpu_memory_bytes,
        "gpu_utilization_ratio": usage.gpu_utilization,
    }
    return {name: value for name, value in numbers.items() if value is not None}


_MEANING = {
    "step": "Optimizer steps done.",
    "loss": "Cross-entropy in nats per token, mean over the last steps.",
    "learning_rate": "Learning rate.",
    "gradient_norm": "Norm of the gradient before clipping, mean over the last steps.",
    "tokens": "Tokens learnt.",
    "tokens_per_second": "Tokens learnt per second.",
    "eta_seconds": "Seconds to the last step.",
    "incidents": "Losses and gradients that were out of order.",
    "restarts": "How often the ranks were restarted in this try.",
    "cpu_cores": "Cores that the ranks use.",
    "memory_bytes": "Resident memory of the ranks.",
    "gpu_memory_bytes": "Memory held by tensors at most, on the fullest GPU.",
    "gpu_utilization_ratio": "Share of time in which GPUs computed, mean over GPUs.",
}


def _memory(usage: Usage) -> dict[str, float]:
    numbers = {"usage/memory_bytes": usage.memory_bytes, "usage/gpu_memory_bytes": usage.gpu_memory_bytes}
    return {name: value for name, value in numbers.items() if value is not None}
