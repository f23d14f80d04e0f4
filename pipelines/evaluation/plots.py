"""Plots of an evaluation's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.formats.records import DocumentRecord, Estimate, EvaluationSummary
from pipelines.pages import BASELINE, CANDIDATE, CHAMPION, INK, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison(summary: EvaluationSummary) -> str:
    """Return candidate, champion and baseline in bits per byte, each with its interval."""
    rows: list[tuple[str, Estimate, str]] = [("unigram baseline", summary.baseline_bits_per_byte, BASELINE)]
    if summary.champion_bits_per_byte is not None:
        rows.append(("champion", summary.champion_bits_per_byte, CHAMPION))
    rows.append(("candidate", summary.bits_per_byte, CANDIDATE))

    def draw(axes: Axes) -> None:
        for height, (_, estimate, colour) in enumerate(rows):
            axes.barh(height, estimate.value, color=colour, height=0.55)
            axes.plot([estimate.low, estimate.high], [height, height], color=INK, linewidth=1.6, solid_capstyle="butt")
            axes.annotate(
                f"{estimate.value:.3f}", (estimate.high, height), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_xlim(0, max(estimate.high for _, estimate, _ in rows) * 1.12)
        axes.set_xlabel("bits per byte (lower is better); line: interval")
        axes.tick_params(axis="y", length=0)

    return draw_svg(draw, height=0.7 + 0.5 * len(rows))


def perplexity_distribution(records: tuple[DocumentRecord, ...]) -> str:
    """Return the histogram of perplexity per document, of the candidate and the baseline, on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    tokens = np.array([record.num_tokens for record in records])
    candidate = np.array([record.nll for record in records]) / tokens / np.log(10)
    baseline = np.array([record.baseline_nll for record in records]) / tokens / np.log(10)
    bins = np.logspace(min(candidate.min(), baseline.min()), max(candidate.max(), baseline.max()) + 1e-3, 48)

    def draw(axes: Axes) -> None:
        axes.hist(10**baseline, bins=bins.tolist(), color=BASELINE, alpha=0.6, label="unigram baseline")
        axes.hist(10**candidate, bins=bins.tolist(), color=CANDIDATE, alpha=0.8, label="candidate")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("perplexity of a document")
        axes.set_ylabel("documents")
        axes.legend(frameon=False)

    return draw_svg(draw, height=2.9)


def champion_differences(records: tuple[DocumentRecord, ...]) -> str:
    """Return the histogram of bits per byte, candidate minus champion, per document; empty without a champion."""
    differences = np.array(
        [
            (record.nll - record.champion_nll) / (record.num_bytes * np.log(2))
            for record in records
            if record.champion_nll is not None
        ]
    )
    if not len(differences):
        return ""
    reach = max(float(np.quantile(np.abs(differences), 0.99)), 1e-3)

    def draw(axes: Axes) -> None:
        axes.hist(
            np.clip(differences, -reach, reach),
            bins=np.linspace(-reach, reach, 49).tolist(),
            color=CANDIDATE,
            alpha=0.8,
        )
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel("bits per byte of a document, candidate minus champion (left of the line: candidate better)")
        axes.set_ylabel("documents")

    return draw_svg(draw, height=2.6)
