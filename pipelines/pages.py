"""What reports share: colours, drawings as inline SVG, one style sheet, and how a page is made of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, CANDIDATE, CHAMPION, BASELINE = "#1f2937", "#6b7280", "#2563eb", "#d97706", "#9ca3af"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slipway",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#d1d5db",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
"""Text stays text, in the reader's font; identifiers inside the SVG are derived, not random."""

STYLE_SHEET = """
  :root { --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --soft: #f9fafb; --good: #15803d; --bad: #b91c1c; }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--soft); color: var(--ink); line-height: 1.5;
         font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
  header { display: flex; justify-content: space-between; align-items: start; gap: 1rem; }
  h1 { margin: 0; font-size: 1.6rem; }
  h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem; }
  p { margin: .25rem 0; color: var(--muted); }
  .badge { padding: .3rem .9rem; border-radius: 999px; color: white; font-weight: 600; white-space: nowrap; }
  .passed { background: var(--good); } .refused { background: var(--bad); }
  .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem;
           margin-top: 1.5rem; }
  .card { background: white; border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; }
  .tile b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; line-height: 1.25; }
  .tile span, .tile small { color: var(--muted); font-size: .85rem; }
  .card svg { display: block; width: 100%; height: auto; font-family: inherit; }
  table { width: 100%; border-collapse: collapse; }
  th { text-align: left; color: var(--muted); font-weight: 500; font-size: .85rem; }
  th, td { padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
  tr:last-child td { border-bottom: 0; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  td.verdict { font-weight: 600; white-space: nowrap; } .good { color: var(--good); } .bad { color: var(--bad); }
  .evidence { color: var(--muted); font-size: .85rem; }
  pre { margin: .5rem 0 0; padding: .75rem; background: var(--soft); border-radius: .4rem; white-space: pre-wrap;
        overflow-wrap: anywhere; font-size: .85rem; }
  pre mark { background: none; color: var(--muted); }
  .sample + .sample { margin-top: .75rem; }
  code { overflow-wrap: anywhere; font-size: .85rem; }
"""
"""Of pages that are one file and need nothing else."""


def render_page(page: str, **values: Any) -> str:
    """Return a page as HTML; every value is escaped unless the page says otherwise, a missing one is an error."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(page).render(style_sheet=STYLE_SHEET, **values)


def draw_svg(draw: Callable[[Axes], object], *, height: float) -> str:
    """Return a drawing as inline SVG, whose bytes depend on the numbers only.

    Args:
        draw: draws on the axes that it is given.
        height: in inches; the width is that of a page.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]
