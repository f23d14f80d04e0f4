"""Simulate the release rule and its two peers; print the tables and draw the operating curves.

    python -m tests.benchmarks.bench_release [--runs 2000] [--markdown FILE] [--picture FILE]

Everything is seeded: the same arguments give the same tables. The exit code is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.benchmarks.bench_release.plots import operating_curves
from tests.benchmarks.bench_release.report import report

PICTURE = Path(__file__).parents[3] / "docs" / "pictures" / "release-operating-curves.png"


def main() -> int:
    """Run the benchmark and return its exit code."""
    parser = argparse.ArgumentParser(prog="bench_release", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2_000, help="runs per row; a quarter of it per point of the curves")
    parser.add_argument("--seed", type=int, default=20_261_121)
    parser.add_argument("--markdown", type=Path, help="write the tables to this file, too")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the curves go")
    args = parser.parse_args()

    begun = time.process_time()

    def told(name: str) -> None:
        print(f"[{time.process_time() - begun:5.0f} s] {name}", file=sys.stderr, flush=True)

    text = report(args.runs, args.seed, told)
    operating_curves(args.picture, max(args.runs // 4, 1), args.seed, told)
    print(text)
    if args.markdown is not None:
        args.markdown.write_text(text + "\n")
    return 1 if "**MISSED**" in text else 0


if __name__ == "__main__":
    sys.exit(main())
