"""Push numbers of finished tasks to the configured metrics servers: a task's process ends too soon to be scraped."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.settings import Settings

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class TaskMetrics:
    """What is known of a finished task."""

    model: str
    step: str
    state: str
    seconds: float
    at: float
    """End, in seconds since the epoch."""


def push(metrics: TaskMetrics, settings: Settings) -> list[Exception]:
    """Push to every configured server and return what went wrong: one server's failure is not another's."""
    problems = []
    for url, send in ((settings.statsd, _to_statsd), (settings.pushgateway, _to_pushgateway)):
        if url:
            try:
                send(url, metrics)
            except Exception as error:  # noqa: BLE001 - numbers must never break the work that they count
                problems.append(error)
    return problems


def _to_statsd(address: str, metrics: TaskMetrics) -> None:
    from statsd import StatsClient

    host, _, port = address.partition(":")
    client = StatsClient(host, int(port or 8125), prefix=f"slipway.{metrics.model}.{metrics.step.replace('.', '_')}")
    client.timing(f"{metrics.state}.duration", metrics.seconds * 1000)  # StatsD counts in milliseconds
    client.incr(metrics.state)
    client.close()


def _to_pushgateway(address: str, metrics: TaskMetrics) -> None:
    from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

    registry = CollectorRegistry()
    state = {"state": metrics.state}
    duration = Gauge("slipway_task_duration_seconds", "Duration of the last try", list(state), registry=registry)
    ended = Gauge("slipway_task_ended_timestamp_seconds", "End of the last try", list(state), registry=registry)
    duration.labels(**state).set(metrics.seconds)
    ended.labels(**state).set(metrics.at)
    grouping = {"model": metrics.model, "step": metrics.step}
    push_to_gateway(address, "slipway", registry, grouping_key=grouping, timeout=TIMEOUT_SECONDS)
