"""Benchmark of the training loop against a bare loop, two other frameworks, and a torch DataLoader.

    python -m tests.benchmarks.bench_training [--alone]

Bars: the framework adds <= 1 % CPU to a step of about 90 ms, and <= 0.05 ms of CPU to the smallest step, over a plain
bare loop and over one that calls torch as cheaply as Slipway does (`training_bare` has both); a step with the loader
takes <= 1.01x the time of one whose data is on the device; the loader gives >= 20x the batches per second of a torch
DataLoader over single samples, which reads straight from memory-mapped tokens. Both sides take turns, step by step, so
a busy machine slows both alike; a second bare loop in the framework's place (`bare`) shows how far the figures can be
trusted. The other frameworks live in an environment of their own (`--peers`), which the first run makes. About seven
minutes on two quiet cores; `--alone` five.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import REPOSITORY
from tests.benchmarks.figures import Figure, circumstances
from tests.benchmarks.training_bare import BARE_LOOPS, SIZES
from tests.benchmarks.training_loading import step_ratios, throughput_ratios
from tests.benchmarks.training_peers import install_peers

PEERS = Path(tempfile.gettempdir()) / "slipway-training-peers"
MILLISECONDS = 1000.0
SMALL_BAR_MS, LARGE_BAR_PERCENT = 0.05, 1.0
LOADER_BAR, THROUGHPUT_BAR = 1.01, 20.0


@dataclass(frozen=True)
class Round:
    """Mean seconds per step of both sides, in turns; CPU seconds are of all threads."""

    framework: tuple[float, float]
    """Wall and CPU seconds."""

    bare: tuple[float, float]

    @property
    def added_ms(self) -> float:
        """Wall time that the framework adds to a step."""
        return (self.framework[0] - self.bare[0]) * MILLISECONDS

    @property
    def added_cpu_ms(self) -> float:
        """CPU time that the framework adds to a step."""
        return (self.framework[1] - self.bare[1]) * MILLISECONDS

    @property
    def added_cpu_percent(self) -> float:
        """The same as a share of the bare step's."""
        return 100 * (self.framework[1] / self.bare[1] - 1)


def measure(python: str, framework: str, rounds: int, over: str = "plain") -> dict[str, list[Round]]:
    """Measure one framework over a bare loop, in a process of its own; return its rounds for each size."""
    done = subprocess.run(
        [python, "-m", "tests.benchmarks.training_tax", framework, "--over", over, "--rounds", str(rounds)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[dict[str, tuple[float, float]]]] = json.loads(done.stdout.splitlines()[-1])
    return {size: [Round(**each) for each in pairs] for size, pairs in found.items()}


def measure_slipway(over: str, *, rounds: int, processes: int) -> dict[str, list[Round]]:
    """Measure in several processes: where memory happens to lie makes a difference to one."""
    found = [measure(sys.executable, "slipway", rounds, over) for _ in range(processes)]
    return {size: [each for rounds_of in found for each in rounds_of[size]] for size in SIZES}


def tell_tax(framework: str, found: dict[str, list[Round]], over: str = "plain") -> bool:
    """Print what a framework adds to a step; return whether Slipway's bars are missed, where it is Slipway."""
    is_missed = False
    for size, rounds in found.items():
        step = Figure.median([each.bare[0] * MILLISECONDS for each in rounds]).value
        wall = Figure.median([each.added_ms for each in rounds])
        cpu = Figure.median([each.added_cpu_ms for each in rounds])
        share = Figure.median([each.added_cpu_percent for each in rounds])
        told = f"{wall.told(' ms')}; CPU {cpu.told(' ms')}, {share.told(' %', 2)}"
        if framework == "slipway":
            verdict = cpu.verdict(SMALL_BAR_MS) if size == "small" else share.verdict(LARGE_BAR_PERCENT)
            bar = f"{SMALL_BAR_MS} ms CPU" if size == "small" else f"{LARGE_BAR_PERCENT:g} % CPU"
            told = f"{told}; bar {bar}: {verdict}"
            is_missed |= verdict == "missed"
        print(f"{framework} adds to a step of {step:.2f} ms of the {over} bare loop: {told}", flush=True)
    return is_missed


def tell_step(size: str, ratios: Sequence[tuple[float, float]]) -> bool:
    """Print a step with the loader over one without; return whether the bar is missed."""
    wall, cpu = (Figure.median(side) for side in zip(*ratios, strict=True))
    verdict = wall.verdict(LOADER_BAR)
    print(
        f"{size} step with the loader over data on the device: {wall.told()}, CPU {cpu.told()}; "
        f"bar {LOADER_BAR}x: {verdict}",
        flush=True,
    )
    return verdict == "missed"


def tell_throughput(ratios: Sequence[tuple[float, float]]) -> bool:
    """Print the loader over a torch DataLoader; return whether the bar is missed."""
    wall, cpu = (Figure.median(side) for side in zip(*ratios, strict=True))
    verdict = wall.verdict(THROUGHPUT_BAR, at_least=True)
    print(
        f"batches of the loader over a torch DataLoader's: {wall.told('x', 1)} per second, {cpu.told('x', 1)} per CPU "
        f"second; bar {THROUGHPUT_BAR:g}x: {verdict}"
    )
    return verdict == "missed"


def peers_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the interpreter of each other framework."""
    if arguments.alone:
        return {}
    python = str(install_peers(arguments.peers))
    (site,) = arguments.peers.glob("lib/python*/site-packages")
    versions = {each.name: each.version for each in importlib.metadata.distributions(path=[str(site)])}
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    return {"transformers": python, "lightning": python}


def main() -> int:
    """Measure all, and print what it came to; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="of each size in a process (default 10)")
    parser.add_argument("--processes", type=int, default=3, help="that measure Slipway (default 3)")
    parser.add_argument("--peers", type=Path, default=PEERS, help=f"environment of the others (default {PEERS})")
    parser.add_argument("--alone", action="store_true", help="leave the other frameworks out")
    arguments = parser.parse_args()
    print(circumstances(), flush=True)
    missed = []
    for over in BARE_LOOPS:
        own = measure_slipway(over, rounds=arguments.rounds, processes=arguments.processes)
        missed.append(tell_tax("slipway", own, over))
    for framework, python in {"bare": sys.executable, **peers_of(arguments)}.items():
        tell_tax(framework, measure(python, framework, arguments.rounds))
    missed += [tell_step(size, step_ratios(size, 3 * arguments.rounds)) for size in SIZES]
    missed += [tell_throughput(throughput_ratios(3 * arguments.rounds))]
    print(circumstances())
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
