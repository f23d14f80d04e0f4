"""Benchmark of the service's own CPU time per request.

    python tests/benchmarks/bench_service.py

Bars: over the model's own CPU <= 500 us, and <= 1.5x a bare bento that returns a BaseModel. CPU seconds of the whole
process tree are read from the kernel. The three sides are the packaged service, a bare bento, and the engine alone on
the same prompt in a process without HTTP. They take turns request by request: a process that has just slept runs on
cold caches, which costs the model alone up to half as much again, so no side may be driven faster than another.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

from pipelines.settings import REPOSITORY
from pipelines.store import Store
from tests.steps import serving
from tests.steps.conftest import make_model

BAR_MICROSECONDS = 500.0
BAR_RATIO = 1.5
PROMPT = "Return the value"

BARE = """
import bentoml
from pydantic import BaseModel


class Answer(BaseModel):
    text: str
    num_tokens: int


@bentoml.service(logging={"access": {"enabled": False}})
class Bare:
    @bentoml.api
    async def complete(self, prompt: str, max_tokens: int) -> Answer:
        return Answer(text=prompt, num_tokens=max_tokens)
"""

ENGINE = """
import sys
from pathlib import Path
from pipelines.inference.engine import Engine
from pipelines.inference.request import SamplingParams

with Engine.load(Path(sys.argv[1]), threads=1) as engine:
    print("ready", flush=True)
    for prompt in sys.stdin:
        engine.generate(prompt.rstrip("\\n"), SamplingParams(max_tokens=1))
        print("done", flush=True)
"""


class EngineAlone:
    """The engine in a process of its own."""

    def __init__(self, model: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._expect("ready")

    def ask(self) -> None:
        """Answer one request."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{PROMPT}\n")
        self.process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if line != word:
            raise RuntimeError(f"the engine's process said {line!r} instead of {word!r}")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(time.user + time.system for time in times)


@dataclass(frozen=True)
class Side:
    """One of the processes that are compared."""

    pid: int
    ask: Callable[[], object]
    """Send it one request and wait for the answer."""


def microseconds(sides: Sequence[Side], num_requests: int) -> list[float]:
    """Return the CPU time per request that each side spends while they take turns."""
    before = [cpu_seconds(side.pid) for side in sides]
    for _ in range(num_requests):
        for side in sides:
            side.ask()
    return [(cpu_seconds(side.pid) - then) / num_requests * 1e6 for side, then in zip(sides, before, strict=True)]


@contextlib.contextmanager
def served_model(model: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Package a model and serve it."""
    store = Store(f"file://{root}/store")
    result = serving.run_package(store, serving.make_inputs(store, model, root), root / "package", serving.spec())
    folder = store.local_path(result.bento.uri)
    assert folder is not None
    with serving.serve(folder, root / "home") as (url, process, _):
        yield url, process.pid


@contextlib.contextmanager
def served_bare(root: Path) -> Iterator[tuple[str, int]]:
    """Serve a bento that does nothing, with the same settings."""
    folder = root / "bare"
    folder.mkdir()
    (folder / "service.py").write_text(BARE, encoding="utf-8")
    (folder / "bentofile.yaml").write_text("service: service:Bare\n", encoding="utf-8")
    with serving.serve(folder, root / "bare-home") as (url, process, _):
        yield url, process.pid


def interval(values: list[float]) -> str:
    """Return a median with its bootstrap interval."""
    resampled = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{statistics.median(values):.2f} (95 % CI {low:.2f}-{high:.2f}, {len(values)} rounds)"


def main() -> None:
    """Measure all three sides in turns and print what the service adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--requests", type=int, default=400, help="requests per side and round (default 400)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = make_model(root / "model")
        service, service_pid = stack.enter_context(served_model(model, root))
        bare, bare_pid = stack.enter_context(served_bare(root))
        client = stack.enter_context(httpx.Client(timeout=60))
        engine = EngineAlone(model)
        stack.callback(engine.process.kill)
        asked: dict[str, object] = {"prompt": PROMPT, "max_tokens": 1}

        def ask_service() -> None:
            client.post(f"{service}/v1/completions", json={**asked, "temperature": 0}).raise_for_status()

        def ask_bare() -> None:
            client.post(f"{bare}/complete", json=asked).raise_for_status()

        sides = (Side(service_pid, ask_service), Side(bare_pid, ask_bare), Side(engine.process.pid, engine.ask))
        microseconds(sides, options.requests // 2)
        rounds = [microseconds(sides, options.requests) for _ in range(options.rounds)]
    own = [whole - alone for whole, _, alone in rounds]
    print(f"CPU per request, us: service {interval([row[0] for row in rounds])}")
    print(f"                     bare bento {interval([row[1] for row in rounds])}")
    print(f"                     engine alone {interval([row[2] for row in rounds])}")
    print(f"service over the model's own, us: {interval(own)}, bar {BAR_MICROSECONDS:g}")
    ratios = [mine / row[1] for mine, row in zip(own, rounds, strict=True)]
    print(f"service over a bare bento: {interval(ratios)}, bar {BAR_RATIO:g}")


if __name__ == "__main__":
    main()
