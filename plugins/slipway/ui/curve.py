"""The curve of a rollout's evidence as a drawing: pure geometry, which the template turns into SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.release.report import Point

WIDTH, HEIGHT = 1000, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26
LOWEST, ABOVE = -3, 2
"""Lowest power of ten, and powers above the higher limit; beyond, a number is drawn at the edge: it is decided."""

MAX_POINTS = 400
"""Most points of a line; a day of looks has more than a screen has columns."""

_LOG_10 = math.log(10.0)


@dataclass(frozen=True)
class Line:
    """A line through all looks."""

    kind: str
    path: str
    """Points as SVG writes them."""


@dataclass(frozen=True)
class Mark:
    """A limit, or a tick of an axis."""

    kind: str
    at: float
    label: str


@dataclass(frozen=True)
class Band:
    """The time at one weight."""

    x: float
    width: float
    level: int
    """Of the shade, 0 (no users) to 4."""

    label: str


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn."""

    lines: tuple[Line, ...]
    limits: tuple[Mark, ...]
    rows: tuple[Mark, ...]
    columns: tuple[Mark, ...]
    bands: tuple[Band, ...]


def chart(points: Sequence[Point], log_limit: float, log_needed: float) -> Chart | None:
    """Return the drawing, or None while there are fewer than two looks.

    Args:
        points: the looks, oldest first.
        log_limit: log of 1/alpha, at which E leads back.
        log_needed: log of 1/beta, at which the evidence leads on.
    """
    if len(points) < 2:
        return None
    seen = _thinned(points)
    x = _scale(seen[0].at, max(seen[-1].at, seen[0].at + 1.0), LEFT, WIDTH - RIGHT)
    powers = [log / _LOG_10 for point in seen for log in (point.log_e, point.log_evidence)]
    low = max(LOWEST, math.floor(min(*powers, 0.0)))
    high = math.ceil(max(log_limit, log_needed) / _LOG_10) + ABOVE
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    return Chart(
        lines=(
            Line("against", _path((x(point.at), y(point.log_e / _LOG_10)) for point in seen)),
            Line("for", _path((x(point.at), y(point.log_evidence / _LOG_10)) for point in seen)),
        ),
        limits=(
            Mark("against", y(log_limit / _LOG_10), f"roll back at E {math.exp(log_limit):.3g}"),
            Mark("for", y(log_needed / _LOG_10), f"go on at evidence {math.exp(log_needed):.3g}"),
        ),
        rows=tuple(Mark("row", y(power), f"1e{power}" if power else "1") for power in _powers(low, high)),
        columns=tuple(_columns(seen, x)),
        bands=tuple(_bands(seen, x)),
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most so many points as can be told apart, the first and the last among them."""
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    return [*points[:-1:stride], points[-1]]


def _scale(first: float, last: float, start: float, end: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        share = min(1.0, max(0.0, (value - first) / (last - first)))
        return round(start + share * (end - start), 1)

    return place


def _path(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _powers(low: int, high: int) -> range:
    return range(low, high + 1, max(1, (high - low) // 6))


def _columns(points: Sequence[Point], x: Callable[[float], float]) -> Iterator[Mark]:
    begin, seconds = points[0].at, points[-1].at - points[0].at
    step = next((step for step in (10, 30, 60, 300, 900, 3600, 14_400) if seconds / step <= 8), 86_400)
    for number in range(int(seconds // step) + 1):
        passed = number * step
        label = f"{passed} s" if step < 60 else f"{passed // 60} min" if step < 3600 else f"{passed // 3600} h"
        yield Mark("column", x(begin + passed), label)


def _bands(points: Sequence[Point], x: Callable[[float], float]) -> Iterator[Band]:
    """Yield one band for each stay at a weight; it ends where the next one begins."""
    stays = [(weight, next(stay).at) for weight, stay in groupby(points, key=lambda point: point.weight)]
    levels = {weight: min(4, place) for place, weight in enumerate(sorted({0.0, *(weight for weight, _ in stays)}))}
    ends = [at for _, at in stays[1:]] + [points[-1].at]
    for (weight, at), end in zip(stays, ends, strict=True):
        label = f"{weight:g} %" if weight else "no users"
        yield Band(x(at), round(x(end) - x(at), 1), levels[weight], label)
