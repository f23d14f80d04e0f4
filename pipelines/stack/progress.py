"""A run's progress for a person: rows are computed, then shown as a live table or as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.stack.airflow_api import TaskInstance
from pipelines.stack.status import duration

WORKING = frozenset({"running", "deferred", "awaiting_input", "up_for_retry", "restarting"})
"""States of a task that has begun and has not ended."""

HIDDEN = frozenset({"at", "seconds"})
"""Numbers of a report that a row shows elsewhere."""

LINE_SECONDS = 5.0
"""How often a running task tells its numbers when the output is not a terminal."""

COLOURS = {"success": "green", "failed": "red", "upstream_failed": "red", "running": "cyan", "up_for_retry": "yellow"}


@dataclass(frozen=True)
class Row:
    """One task of a run."""

    task_id: str
    state: str
    seconds: float | None
    """How long it has worked so far; None before it began."""

    detail: str = ""

    @property
    def is_working(self) -> bool:
        """Say whether the task has begun and has not ended."""
        return self.state in WORKING


def rows(
    instances: Iterable[TaskInstance],
    order: Sequence[str],
    details: Mapping[str, str],
    now: datetime,
) -> list[Row]:
    """Return one row per task in the DAG's order.

    Args:
        instances: the tasks as Airflow sees them.
        order: task ids, upstream first; tasks that are not in it come last.
        details: where running tasks are, in words, by task id.
        now: an aware time.
    """
    place = {task_id: index for index, task_id in enumerate(order)}
    listed = sorted(instances, key=lambda instance: (place.get(instance.task_id, len(place)), instance.task_id))
    return [
        Row(
            task_id=instance.task_id,
            state=instance.state,
            seconds=((instance.end or now) - instance.start).total_seconds() if instance.start else None,
            detail=details.get(instance.task_id, "") if instance.state in WORKING else "",
        )
        for instance in listed
    ]


def describe(numbers: Mapping[str, float]) -> str:
    """Return a report in words: `step 120/600  loss 4.213  27,000 tokens/s  ETA 35 s`; others by their name."""
    left = {name: value for name, value in numbers.items() if name not in HIDDEN}
    parts = []
    if "step" in left:
        total = f"/{left.pop('max_steps'):.0f}" if "max_steps" in left else ""
        parts.append(f"step {left.pop('step'):.0f}{total}")
    forms: dict[str, Callable[[float], str]] = {
        "loss": lambda value: f"loss {value:.3f}",
        "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
        "eta_seconds": lambda value: f"ETA {duration(value)}",
        "cpu_cores": lambda value: f"{value:.1f} cores",
        "memory_bytes": lambda value: f"{value / 2**30:.1f} GiB",
        "gpu_utilization": lambda value: f"GPU {100 * value:.0f} %",
        "gpu_memory_bytes": lambda value: f"GPU memory {value / 2**30:.1f} GiB",
    }
    for name, form in forms.items():
        if name in left:
            parts.append(form(left.pop(name)))
    parts.extend(f"{name.replace('_', ' ')} {value:g}" for name, value in left.items())
    return "  ".join(parts)


class View(Protocol):
    """Shows rows to a person."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was shown stays on the screen."""

    def update(self, shown: Sequence[Row]) -> None:
        """Show the newest rows."""

    def say(self, message: str) -> None:
        """Print something beside the rows."""


class LineView:
    """One line per change of state, and the numbers of running tasks every few seconds: for logs and pipes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._write = write or (lambda line: print(line, flush=True))
        self._states: dict[str, str] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, shown: Sequence[Row]) -> None:
        """Print what changed."""
        for row in shown:
            if row.state != self._states.get(row.task_id, "none"):
                self._states[row.task_id] = row.state
                self._told[row.task_id] = self._clock()
                self._write(line(row))
            elif row.is_working and row.detail and self._clock() - self._told[row.task_id] >= LINE_SECONDS:
                self._told[row.task_id] = self._clock()
                self._write(line(row))

    def say(self, message: str) -> None:
        """Print a message."""
        self._write(message)


def line(row: Row) -> str:
    """Return a row as one line of text."""
    seconds = "" if row.seconds is None else f"{row.seconds:6.1f} s"
    return f"  {row.task_id:<20} {row.state:<16} {seconds:>9}  {row.detail}".rstrip()


class LiveView:
    """A table that is redrawn in place: for terminals."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def update(self, shown: Sequence[Row]) -> None:
        """Redraw the table."""
        table = Table("step", "state", "time", "", box=None, pad_edge=False)
        for row in shown:
            state = f"[{COLOURS.get(row.state, 'dim')}]{row.state}[/]"
            table.add_row(row.task_id, state, "" if row.seconds is None else f"{row.seconds:.1f} s", row.detail)
        self._live.update(table)

    def say(self, message: str) -> None:
        """Print a message above the table."""
        self._live.console.print(message, markup=False, highlight=False)


def choose_view(console: Console) -> View:
    """Return the view that fits where the output goes."""
    return LiveView(console) if console.is_terminal else LineView()
