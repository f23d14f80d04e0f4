"""The few rows that the README shows, out of all tables: `python -m tests.benchmarks.bench_release.summary`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TABLES = Path(__file__).parents[3] / "docs" / "benchmarks.md"
WEIGHTS = ("5%", "25%", "50%")
FASTER = ("errors 0.1 to 5 %", "errors 0.1 to 1 %", "latency x2")
ALIKE = "canary as good as stable: rolled back"

Rows = Mapping[str, tuple[str, ...]]


def short_table(markdown: str) -> str:
    """Return the README's table from the whole tables of a run."""
    tables = dict(_tables(markdown))
    alike, whole = tables[ALIKE], tables["whole rollout, errors"]
    lines = [
        "| 20 requests/s, a look every 10 s | peer 1 | peer 2 | this rule |",
        "|---|---|---|---|",
        _line(f"an equal canary is rolled back, worst of {len(alike)} settings", _worst(alike)),
        *(_line(f"{setting}: median time to rollback at 5/25/50 %", _medians(tables, setting)) for setting in FASTER),
        _line("a good canary is promoted", [_promoted(cell) for cell in whole["canary with 0.1 % errors"]]),
        _line("a canary with 1 % errors is promoted", [_promoted(cell) for cell in whole["canary with 1 % errors"]]),
    ]
    return "\n".join(lines)


def _tables(markdown: str) -> Iterator[tuple[str, Rows]]:
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        head, _, *lines = (tuple(cell.strip() for cell in line.strip("|").split("|")) for line in block.splitlines())
        yield head[0], {name: cells for name, *cells in map(list, lines)}


def _line(name: str, cells: Iterator[str] | list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _worst(rows: Rows) -> list[str]:
    columns = zip(*rows.values(), strict=True)
    return [f"{max(float(cell.partition(' %')[0]) for cell in column):.2f} %" for column in columns]


def _medians(tables: Mapping[str, Rows], setting: str) -> list[str]:
    rows = [tables["canary worse: time to rollback"][f"{setting}, at {weight}"] for weight in WEIGHTS]
    return [" / ".join(map(_median, column)) for column in zip(*rows, strict=True)]


def _median(cell: str) -> str:
    """Return the median without its interval; a rule that mostly misses has none."""
    return cell if cell.startswith("missed") else re.split(r" \(|;", cell)[0]


def _promoted(cell: str) -> str:
    found = re.match(r"promoted ([\d.]+ %) \([^)]*\)(?: in (\d+ s))?", cell)
    return "–" if found is None else " in ".join(part for part in found.groups() if part)


if __name__ == "__main__":
    print(short_table(TABLES.read_text(encoding="utf-8")))
