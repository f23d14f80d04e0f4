"""The evaluation report: a page for people, whose bytes depend on the measurements only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.evaluation import plots
from pipelines.evaluation.template import PAGE
from pipelines.formats.records import DocumentRecord, Estimate, EvaluationSummary
from pipelines.pages import render_page

NUM_HARDEST = 10
"""Documents listed with the highest perplexity."""


@dataclass(frozen=True, slots=True)
class _Hard:
    id: str
    num_tokens: int
    perplexity: float
    baseline: float


def render(
    model: str, summary: EvaluationSummary, records: tuple[DocumentRecord, ...], inputs: Mapping[str, str]
) -> str:
    """Return the report as one HTML page that needs no other file.

    Args:
        model: model name.
        summary: the measurements and gate decisions.
        records: per-document measurements.
        inputs: what was evaluated: names and digests.
    """
    return render_page(
        PAGE,
        model=model,
        summary=summary,
        tiles=_tiles(summary),
        plots=_plots(summary, records),
        hardest=_hardest(records),
        inputs=inputs,
    )


def _tiles(summary: EvaluationSummary) -> list[tuple[str, Estimate, str]]:
    tiles = [
        ("Perplexity", summary.perplexity, f"unigram baseline {summary.baseline_perplexity.value:.4g}"),
        ("Perplexity / baseline", summary.perplexity_ratio, "paired by document"),
        ("Bits per byte", summary.bits_per_byte, f"unigram baseline {summary.baseline_bits_per_byte.value:.4g}"),
    ]
    if summary.champion_difference is not None:
        tiles.append(("Against the champion", summary.champion_difference, "bits per byte; below 0: better"))
    return tiles


def _plots(summary: EvaluationSummary, records: tuple[DocumentRecord, ...]) -> list[tuple[str, str]]:
    compared = "Candidate and baseline" if summary.champion_difference is None else "Candidate, champion and baseline"
    drawings = [
        (compared, plots.comparison(summary)),
        ("Perplexity by document", plots.perplexity_distribution(records)),
        ("Against the champion, by document", plots.champion_differences(records)),
    ]
    return [(title, drawing) for title, drawing in drawings if drawing]


def _hardest(records: tuple[DocumentRecord, ...]) -> list[_Hard]:
    ordered = sorted(records, key=lambda record: (-record.nll / record.num_tokens, record.id))
    return [
        _Hard(
            record.id,
            record.num_tokens,
            math.exp(record.nll / record.num_tokens),
            math.exp(record.baseline_nll / record.num_tokens),
        )
        for record in ordered[:NUM_HARDEST]
    ]
