"""The report of a training: one page that shows what happened, from the numbers alone."""

from __future__ import annotations

import re

import pytest

from pipelines.spec import TrainingConfig
from pipelines.training.determinism import Determinism, RankRecord
from pipelines.training.metrics import Reading
from pipelines.training.planning.facts import Comparison, Range
from pipelines.training.report import Report, page, render
from pipelines.training.report.curves import NUM_POINTS, Interruption, curve, interruptions
from pipelines.training.supervision.events import Event, EventKind

RECORD = RankRecord(
    versions={"torch": "2.13.0"},
    hardware={"processor": "a processor"},
    flags={"precision": "bfloat16"},
    num_parameters=1000,
    num_trained_parameters=1000,
    flops_per_token=6000,
    matmul_rate=6e6,
    peak_memory_bytes=2**30,
)


def reading(step: int, *, at: float, seconds: float, loss: float = 2.0) -> Reading:
    return Reading(
        step=step, loss=loss, learning_rate=0.1, gradient_norm=1.0, tokens=step * 100, tokens_per_second=500.0,
        seconds=seconds, eta_seconds=0.0, at=at, memory_bytes=2**29,
    )  # fmt: skip


UNBROKEN = [reading(step, at=1000.0 + step, seconds=float(step)) for step in (10, 20, 30)]
BROKEN = [*UNBROKEN[:2], reading(30, at=1047.5, seconds=30.0)]


def report(readings: list[Reading], *events: Event, comparison: Comparison | None = None) -> Report:
    determinism = Determinism.of(
        (RECORD, RECORD), seed=7, code="c" * 64, inputs={"tokens": "t" * 64}, outputs={}, resumed_from_step=0
    )
    return Report("docs-gpt", TrainingConfig(ranks=2), readings, events, (RECORD, RECORD), determinism, comparison)


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the most time of a page."""
    monkeypatch.setattr(page, "draw_curves", lambda *_: [])


def test_a_page_needs_nothing_else_and_shows_every_measure() -> None:
    text = render(report(UNBROKEN))
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#)', text) == []
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:6] == ["Loss", "Gradient norm", "Learning rate", "Throughput", "MFU", "Memory"]
    assert text.count("<svg") == 6
    assert "trained in one go" in text
    assert "25%" in text  # 500 tokens/s of 6,000 operations, of 12 million a second
    assert render(report(UNBROKEN)) == text


def test_events_and_hostile_text_are_shown_as_text(without_curves: None) -> None:
    text = render(report(UNBROKEN, Event(kind=EventKind.RESTART, step=20, text="<script>alert(1)</script>", at=0.0)))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>" not in text


def test_plan_and_outcome_stand_side_by_side(without_curves: None) -> None:
    planned = Comparison(
        planned_seconds=Range(value=60, low=50, high=70),
        seconds=65,
        planned_memory_bytes=2**31,
        memory_bytes=2**30,
        planned_cost=None,
        cost=None,
    )
    text = render(report(UNBROKEN, comparison=planned))
    assert "60.0 s (50.0 s to 70.0 s)" in text
    assert "65.0 s" in text
    assert "There was no plan" not in text


def test_a_pause_of_the_training_is_an_interruption() -> None:
    assert interruptions(UNBROKEN) == []
    assert interruptions(BROKEN) == [Interruption(after_step=20, seconds=pytest.approx(17.5))]
    assert "17.5 s without training" in render(report(BROKEN))


def test_a_long_training_is_drawn_in_as_many_points_as_a_screen_has() -> None:
    values = [float(number % 2) for number in range(10_000)]
    found = curve(range(10_000), values)
    assert len(found.steps) == NUM_POINTS
    assert found.mean.mean() == pytest.approx(0.5)
    assert (found.low.min(), found.high.max()) == (0.0, 1.0)
