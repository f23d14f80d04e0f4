"""Run every benchmark, one after another, each in a process of its own: `make bench`, or `... <name> <name>`.

Figures are ratios against a peer in the same run, with an interval; nothing here is a test, and nothing times out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the benchmarks with these names, or all; return how many failed."""
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*"))
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"error: unknown benchmark {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 20
    failed = 0
    for name in names or known:
        print(f"\n== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}"], check=False)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
