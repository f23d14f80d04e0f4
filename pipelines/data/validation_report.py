"""The validation artifact: what the suite found, for people (HTML), for programs (JSON), and the rows that broke it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.artifacts import canonical_json
from pipelines.data.sources import Corpus
from pipelines.data.suite import Outcome, num_failed
from pipelines.data.validation_page import PAGE
from pipelines.spec import Severity

RESULT = "result.json"
REPORT = "report.html"
QUARANTINE = "quarantine.parquet"

_SHOWN_ROWS = 10
_SHOWN_CHARACTERS = 240


def is_refused(outcomes: Sequence[Outcome]) -> bool:
    """Return whether a critical expectation failed."""
    return num_failed(outcomes)[Severity.CRITICAL.value] > 0


def refusal(corpus: Corpus, outcomes: Sequence[Outcome], report_uri: str) -> str:
    """Return why the data is refused: each failed critical expectation with column, observed, limit and examples."""
    failed = [outcome for outcome in outcomes if not outcome.passed and outcome.severity is Severity.CRITICAL]
    lines = [f"data.suite: {len(failed)} critical expectation(s) failed on {corpus.table.num_rows} rows:"]
    lines += [f"  {_refusal_of(corpus, outcome)}" for outcome in failed]
    return "\n".join(
        [*lines, f"  report: {report_uri}", "  mend the data, or the limit in the spec, then trigger a new run"]
    )


def write(folder: Path, corpus: Corpus, outcomes: Sequence[Outcome], *, model: str, source: str) -> None:
    """Write result, report and the quarantined sample; equal findings give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "model": model,
        "source": source,
        "source_digest": corpus.digest,
        "num_rows": corpus.table.num_rows,
        "passed": not is_refused(outcomes),
        "num_failed": num_failed(outcomes),
        "expectations": [outcome.model_dump(mode="json") for outcome in outcomes],
    }
    (folder / RESULT).write_bytes(canonical_json(result))
    quarantined = _quarantine(corpus, outcomes)
    if quarantined.num_rows:
        pq.write_table(quarantined, folder / QUARANTINE, compression="zstd")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(PAGE).render(
        result=result,
        outcomes=[(outcome, _rows(corpus, outcome)) for outcome in _worst_first(outcomes)],
        columns=_profile(corpus.table),
        files=len(corpus.files),
    )
    (folder / REPORT).write_text(page, encoding="utf-8")


def _refusal_of(corpus: Corpus, outcome: Outcome) -> str:
    where = f" on {outcome.columns}" if outcome.columns else ""
    if outcome.error:
        columns = ", ".join(corpus.table.column_names)
        return f"{outcome.type}{where}: could not be computed: {outcome.error}; columns: {columns}"
    examples = "; ".join(
        f"{_cut(value, 60)} ({corpus.origin(row)})"
        for row, value in list(zip(outcome.sample, outcome.examples, strict=False))[:3]
    )
    shown = f"; for example {examples}" if examples else ""
    return f"{outcome.type}{where}: {outcome.observed}; limit: {outcome.limit or 'no row may'}{shown}"


def _worst_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    order = list(Severity)
    return sorted(outcomes, key=lambda outcome: (outcome.passed, order.index(outcome.severity)))


def _quarantine(corpus: Corpus, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return the sampled failing rows, one per expectation and row, with where they come from."""
    broken = [(outcome, row) for outcome in outcomes if not outcome.passed for row in outcome.sample]
    reasons = {
        "expectation": [outcome.type for outcome, _ in broken],
        "severity": [outcome.severity.value for outcome, _ in broken],
        "origin": [corpus.origin(row) for _, row in broken],
    }
    rows = corpus.table.take(pa.array([row for _, row in broken], pa.int64()))
    columns = {f"quarantine_{name}": pa.array(values, pa.string()) for name, values in reasons.items()}
    return pa.table({**columns, **{name: rows[name] for name in rows.column_names}})


def _rows(corpus: Corpus, outcome: Outcome) -> list[dict[str, str]]:
    if outcome.passed:
        return []
    return [
        {"origin": corpus.origin(row), "id": str(corpus.table["id"][row].as_py()), "value": _cut(value)}
        for row, value in list(zip(outcome.sample, outcome.examples, strict=False))[:_SHOWN_ROWS]
    ]


def _profile(table: pa.Table) -> list[dict[str, Any]]:
    """Return what every column looks like: type, missing, distinct, smallest and largest (of strings: the lengths)."""
    profile = []
    for name in table.column_names:
        column = table[name]
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        measured = pc.utf8_length(column) if is_text else column
        is_number = is_text or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        extent = pc.min_max(measured).as_py() if is_number else {"min": "", "max": ""}
        profile.append(
            {
                "name": name,
                "type": f"{column.type}, length" if is_text else str(column.type),
                "missing": column.null_count,
                "distinct": "" if pa.types.is_nested(column.type) else len(pc.unique(column)),
                "mean": f"{pc.mean(measured).as_py() or 0:.1f}" if is_number else "",
                **extent,
            }
        )
    return profile


def _cut(value: Any, limit: int = _SHOWN_CHARACTERS) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
