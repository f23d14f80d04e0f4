"""A client of Prometheus' HTTP API: its clock, and samples as they were scraped.

Samples are read raw, never through `rate` or `increase`: those extrapolate, and answer the same for "nothing happened"
and "nothing was scraped".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import httpx

from pipelines.locations import without_users
from pipelines.release.ports import RouterUnavailable

TIMEOUT_SECONDS = 10.0
MILLI = 1000


@dataclass(frozen=True)
class Series:
    """The samples of one series, oldest first."""

    labels: dict[str, str]
    points: tuple[tuple[int, float], ...]
    """Milliseconds since the epoch, and the value; NaN among them."""


class Prometheus:
    """One Prometheus; threads may share it."""

    def __init__(self, url: str) -> None:
        self._name = without_users(url)
        self._client = httpx.Client(base_url=url, trust_env=False)

    def now(self, patience: float = TIMEOUT_SECONDS) -> int:
        """Return its clock, in milliseconds since the epoch.

        Args:
            patience: how long to wait for an answer, in seconds.

        Raises:
            RouterUnavailable: when it does not answer.
        """
        return _milliseconds(self._query("time()", patience)[0])

    def samples(self, selector: str, start: int, end: int) -> list[Series]:
        """Return what was scraped between two moments, both included, in milliseconds since the epoch.

        Args:
            selector: of series, without a range.
            start: the first moment.
            end: the last one.

        Raises:
            RouterUnavailable: when it does not answer, or refuses the selector.
        """
        seconds = max(1, math.ceil((end - start) / MILLI) + 1)
        found = self._query(f"{selector}[{seconds}s]", TIMEOUT_SECONDS, time=f"{end / MILLI:.3f}")
        series = (
            Series(entry["metric"], tuple((_milliseconds(at), float(value)) for at, value in entry["values"]))
            for entry in found
        )
        return [_between(entry, start, end) for entry in series]

    def _query(self, text: str, patience: float, **parameters: str) -> list[Any]:
        try:
            response = self._client.post("/api/v1/query", data={"query": text, **parameters}, timeout=patience)
            found = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RouterUnavailable(
                f"counts: Prometheus at {self._name} does not answer: {error or type(error).__name__}; is "
                "SLIPWAY_PROMETHEUS right, and may this pod reach it?"
            ) from error
        if found.get("status") != "success":
            raise RouterUnavailable(f"counts: Prometheus refuses {text}: {found.get('error', response.status_code)}")
        return list(found["data"]["result"])


def _milliseconds(seconds: float) -> int:
    return round(float(seconds) * MILLI)


def _between(series: Series, start: int, end: int) -> Series:
    return Series(series.labels, tuple(point for point in series.points if start <= point[0] <= end))
