"""Progress is computed from facts and told once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pipelines.stack.airflow_api import TaskInstance
from pipelines.stack.progress import LINE_SECONDS, LineView, LiveView, Row, choose_view, describe, line, rows

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def instance(
    task_id: str, state: str, started_ago: float | None = None, ended_ago: float | None = None
) -> TaskInstance:
    """Return a task that began and ended so many seconds before now."""

    def ago(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOW - timedelta(seconds=seconds)

    return TaskInstance(task_id=task_id, state=state, try_number=1, start=ago(started_ago), end=ago(ended_ago))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        pytest.param(
            {
                "step": 120,
                "max_steps": 600,
                "loss": 4.21349,
                "tokens_per_second": 27013.4,
                "eta_seconds": 75,
                "seconds": 9,
                "at": 1,
            },
            "step 120/600  loss 4.213  27,013 tokens/s  ETA 1 min 15 s",
            id="training",
        ),
        pytest.param({"step": 3}, "step 3", id="step-without-total"),
        pytest.param(
            {"cpu_cores": 1.94, "memory_bytes": 3 * 2**29, "gpu_utilization": 0.97, "gpu_memory_bytes": 40 * 2**30},
            "1.9 cores  1.5 GiB  GPU 97 %  GPU memory 40.0 GiB",
            id="what-it-uses",
        ),
        pytest.param({"windows": 12, "of": 40}, "windows 12  of 40", id="others-by-name"),
        pytest.param({}, "", id="nothing-reported"),
    ],
)
def test_numbers_read_as_words(numbers: dict[str, float], text: str) -> None:
    assert describe(numbers) == text


def test_rows_follow_the_dag_and_count_from_start_to_end_or_now() -> None:
    shown = rows(
        [instance("train", "running", 10), instance("freeze", "success", 30, 25), instance("extra", "none")],
        order=["freeze", "train"],
        details={"train": "loss 2.000", "freeze": "loss 9.000"},
        now=NOW,
    )

    assert shown == [
        Row("freeze", "success", 5.0),
        Row("train", "running", 10.0, "loss 2.000"),
        Row("extra", "none", None),
    ]


def test_line_view_tells_a_change_once_and_numbers_now_and_then() -> None:
    clock = [0.0]
    written: list[str] = []
    view = LineView(clock=lambda: clock[0], write=written.append)
    running = Row("train", "running", 1.0, "loss 5.000")

    view.update([Row("freeze", "none", None), running])
    view.update([running])
    clock[0] = LINE_SECONDS
    view.update([running])
    view.update([Row("train", "success", 2.0)])

    assert written == [line(running), line(running), line(Row("train", "success", 2.0))]


def test_live_view_shows_every_row_and_messages() -> None:
    console = Console(record=True, width=100, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123

    with LiveView(console) as view:
        view.update([Row("train", "running", 1.0, "loss 5.000")])
        view.say("[not markup]")

    text = console.export_text()
    assert "train" in text
    assert "loss 5.000" in text
    assert "[not markup]" in text


def test_view_fits_where_the_output_goes() -> None:
    assert isinstance(choose_view(Console(force_terminal=True)), LiveView)
    assert isinstance(choose_view(Console(force_terminal=False)), LineView)
