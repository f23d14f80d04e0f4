"""A copy with two worker processes: both answer and record, their counters add up, a killed one comes back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import multiprocess

from pipelines import artifacts
from pipelines.formats import metrics, recordings
from pipelines.formats.headers import Traffic
from pipelines.store import Store
from tests.steps import serving

ASKED = {"prompt": "Return the value", "max_tokens": 2, "temperature": 0}
AT_ONCE = 8


@dataclass(frozen=True)
class Copy:
    """A running copy."""

    url: str
    supervisor: psutil.Process
    home: Path

    def ask(self) -> None:
        """Send requests, each on a connection of its own, so that the workers share them."""

        def post(_: int) -> None:
            httpx.post(f"{self.url}/v1/completions", json=ASKED, timeout=60).raise_for_status()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(post, range(AT_ONCE)))

    def workers(self) -> set[int]:
        """Return the processes that serve."""
        found = set()
        for child in self.supervisor.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.add(child.pid)
        return found

    def recorded(self) -> dict[str, int]:
        """Return how many requests each file of recorded ones holds."""
        return {path.name: len(recordings.read(path)) for path in (self.home / recordings.FOLDER).glob("*.jsonl")}

    def answered(self) -> int:
        """Return how many requests the copy says it has answered."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        return metrics.parse(text)[Traffic.USER].answered

    def answered_by(self, pid: int) -> int:
        """Return how many requests one worker has counted."""
        files = [str(path) for path in self.home.rglob(f"counter_{pid}.db")]
        found = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # half typed
        return int(sum(sample.value for metric in found if metric.name == metrics.ANSWERS for sample in metric.samples))


@pytest.fixture
def copy(tiny_model_folder: Path, tmp_path: Path) -> Iterator[Copy]:
    """A copy with two workers."""
    store = Store(f"file://{tmp_path}/store")
    inputs = serving.make_inputs(store, tiny_model_folder, tmp_path)
    result = serving.run_package(store, inputs, tmp_path / "package", serving.spec(workers=2, recorded_requests=4))
    folder, home = artifacts.fetch(store, result.bento, tmp_path / "cache"), tmp_path / "home"
    with serving.serve(folder, home) as (url, process, _):
        yield Copy(url, psutil.Process(process.pid), home)


@pytest.mark.slow
def test_two_workers_share_the_work_and_a_killed_one_loses_neither_counts_nor_its_file(copy: Copy) -> None:
    num_asked = 0

    def everyone_has_answered() -> bool:
        nonlocal num_asked
        copy.ask()
        num_asked += AT_ONCE
        workers = copy.workers()
        return len(workers) == 2 and all(copy.answered_by(pid) for pid in workers)

    serving.wait_until(everyone_has_answered, "both workers have answered")
    assert copy.answered() == sum(map(copy.answered_by, copy.workers())) == num_asked
    serving.wait_until(lambda: copy.recorded() == {"1.jsonl": 2, "2.jsonl": 2}, "both workers have recorded")

    first, second = copy.workers()
    os.kill(first, signal.SIGKILL)
    serving.wait_until(lambda: first not in copy.workers(), "the worker is dead")
    for path in (copy.home / recordings.FOLDER).glob("*.jsonl"):
        path.unlink()
    seen = [num_asked]

    def is_replaced() -> bool:
        seen.append(copy.answered())
        return len(copy.workers() - {first}) == 2

    serving.wait_until(is_replaced, "the killed worker is replaced")
    serving.wait_until(everyone_has_answered, "the new worker has answered")
    assert second in copy.workers()
    assert set(seen) == {seen[0]}
    assert copy.answered() == num_asked

    serving.wait_until(lambda: everyone_has_answered() and len(copy.recorded()) == 2, "both record again")
    assert copy.recorded().keys() == {"1.jsonl", "2.jsonl"}
