"""From a training's record to its page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.pages import render_page
from pipelines.spec import TrainingConfig
from pipelines.training.determinism import Determinism, RankRecord
from pipelines.training.metrics import Reading
from pipelines.training.planning.facts import Comparison
from pipelines.training.planning.words import comparison_rows, duration, size
from pipelines.training.report.curves import Interruption, draw_curves, interruptions
from pipelines.training.report.template import PAGE
from pipelines.training.supervision.events import Event


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    model: str
    training: TrainingConfig
    readings: Sequence[Reading]
    events: Sequence[Event]
    """Of the last try."""

    records: Sequence[RankRecord]
    """Of the ranks of the first machine; the others' are taken to be alike."""

    determinism: Determinism
    comparison: Comparison | None

    @property
    def model_rate(self) -> float:
        """Tokens per second if the devices did nothing but the model's matrix products."""
        rate = statistics.fmean(record.matmul_rate for record in self.records)
        return rate * self.training.ranks / self.records[0].flops_per_token


def render(report: Report) -> str:
    """Return the report as one HTML page that needs no other file."""
    pauses = interruptions(report.readings)
    return render_page(
        PAGE,
        model=report.model,
        subtitle=_subtitle(report),
        tiles=_tiles(report, pauses),
        curves=draw_curves(report.readings, report.model_rate),
        num_readings=len(report.readings),
        interruptions=pauses,
        events=report.events,
        compared=comparison_rows(report.comparison) if report.comparison else [],
        tables=_tables(report),
    )


def _subtitle(report: Report) -> str:
    first, training = report.records[0], report.training
    device = first.hardware.get("device", first.hardware["processor"])
    return (
        f"{first.num_parameters:,} parameters, strategy {training.strategy.kind}, ranks: {training.ranks}, "
        f"{first.flags['precision']}, {device}"
    )


def _tiles(report: Report, pauses: Sequence[Interruption]) -> list[tuple[str, str, str]]:
    last = report.readings[-1]
    speed = statistics.median(reading.tokens_per_second for reading in report.readings)
    memory = max(record.peak_memory_bytes for record in report.records)
    lost = sum(pause.seconds for pause in pauses)
    return [
        ("Final loss", f"{last.loss:.3f}", f"nats per token after {last.step:,} steps"),
        ("Tokens", f"{last.tokens:,}", f"{last.tokens / report.records[0].num_trained_parameters:.3g} per parameter"),
        ("Throughput", f"{speed:,.0f}", "tokens per second, median"),
        ("MFU", f"{speed / report.model_rate:.0%}", "of the matmul rate measured on these devices"),
        ("Memory", size(memory), "of the rank that needed most, at its peak"),
        ("Time", duration(last.seconds), "of training, interruptions left out"),
        ("Interruptions", str(len(pauses)), f"{duration(lost)} without training" if pauses else "none"),
        ("Incidents", str(last.num_incidents), "losses or gradients out of order"),
    ]


def _tables(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    found = report.determinism
    facts = [("seed", str(found.seed)), ("code", found.code), *_sorted(found.inputs), *_sorted(found.outputs)]
    ranks = [
        (f"rank {number}", f"{', '.join(record.hardware.values())}; {size(record.peak_memory_bytes)} at its peak")
        for number, record in enumerate(report.records)
    ]
    return [
        ("Seed and digests", facts),
        ("Versions and flags", [*_sorted(found.versions), *_sorted(found.flags)]),
        ("Ranks", ranks),
    ]


def _sorted(values: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(values.items())
