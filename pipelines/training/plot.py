"""One picture of a training: loss and throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.training.metrics import Reading


def draw(readings: Sequence[Reading], file: Path) -> None:
    """Write loss and tokens per second over tokens learnt; the file's ending says the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, speed = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    tokens = [reading.tokens for reading in readings]
    loss.plot(tokens, [reading.loss for reading in readings], color="#1f5fa8")
    loss.set_ylabel("loss (nats per token)")
    speed.plot(tokens, [reading.tokens_per_second for reading in readings], color="#5a8f29")
    speed.set_ylabel("tokens/s")
    speed.set_ylim(bottom=0)
    speed.set_xlabel("tokens learnt")
    for axes in (loss, speed):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
