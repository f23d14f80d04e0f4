"""Benchmark of the training loop against a bare loop, two other frameworks, and a torch DataLoader.

    python -m tests.benchmarks.bench_training

Bars: the framework adds <= 1 % CPU to a step of about 90 ms, and <= 0.05 ms to the smallest step; a step with the
loader takes <= 1.01x the time of one whose data is on the device; the loader gives >= 20x the batches per second of a
torch DataLoader over single samples. Rounds are paired and interleaved, so a busy machine slows both sides alike. The
other frameworks live in an environment of their own (`--peers`), which the first run makes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.settings import REPOSITORY
from tests.benchmarks.training_loading import step_time_ratios, throughput_ratios
from tests.benchmarks.training_peers import install_peers
from tests.benchmarks.training_tax import SIZES

PEERS = Path(tempfile.gettempdir()) / "slipway-training-peers"
MILLISECONDS = 1000.0


def describe(name: str, ratios: Sequence[float]) -> str:
    """Return the median of paired ratios with a bootstrap interval."""
    return f"{name}: {_median(ratios, 'x', 3)}"


def _median(values: Sequence[float], unit: str, digits: int) -> str:
    resampled = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    median = statistics.median(values)
    return f"{median:.{digits}f}{unit} (95 % CI {low:.{digits}f}-{high:.{digits}f}, {len(values)} rounds)"


def describe_tax(python: str, framework: str, size: str, rounds: int) -> str:
    """Measure one framework in a process of its own, and say what it adds to a step."""
    done = subprocess.run(
        [python, "-m", "tests.benchmarks.training_tax", framework, size, "--rounds", str(rounds)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        check=True,
    )
    pairs = [(found["framework"], found["bare"]) for found in json.loads(done.stdout.splitlines()[-1])]
    step = statistics.median(bare[0] for _, bare in pairs) * MILLISECONDS
    wall = [(own[0] - bare[0]) * MILLISECONDS for own, bare in pairs]
    cpu = [(own[1] - bare[1]) * MILLISECONDS for own, bare in pairs]
    share = [100 * (own[1] / bare[1] - 1) for own, bare in pairs]
    return (
        f"{framework} over a bare loop of {step:.2f} ms a step: {_median(wall, ' ms', 3)}; "
        f"CPU {_median(cpu, ' ms', 3)}, {_median(share, ' %', 2)}"
    )


def in_fresh_folder(measure: Callable[[Path, str, int], list[float]], size: str, rounds: int) -> list[float]:
    """Measure in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name), size, rounds)


def describe_circumstances() -> str:
    """Return versions and load."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return f"{versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Run paired rounds and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds (default 9)")
    parser.add_argument("--peers", type=Path, default=PEERS, help=f"environment of the others (default {PEERS})")
    parser.add_argument("--alone", action="store_true", help="leave the other frameworks out")
    arguments = parser.parse_args()
    print(describe_circumstances())
    peers = "" if arguments.alone else str(install_peers(arguments.peers))
    for size in SIZES:
        print(describe_tax(sys.executable, "slipway", size, arguments.rounds), flush=True)
        for framework in ("transformers", "lightning") if peers else ():
            print(describe_tax(peers, framework, size, arguments.rounds), flush=True)
        ratios = in_fresh_folder(step_time_ratios, size, arguments.rounds)
        print(describe(f"CPU of a {size} step with the loader over data on the device, bar 1.01x", ratios), flush=True)
    ratios = in_fresh_folder(throughput_ratios, "large", arguments.rounds)
    print(describe("loader over a torch DataLoader, batches/s, bar 20x", ratios))
    print(describe_circumstances())


if __name__ == "__main__":
    main()
