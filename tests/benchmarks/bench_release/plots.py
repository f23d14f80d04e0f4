"""Operating curves: how often, and how soon, each rule rolls back a canary that is so much worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.bench_release.report import RULES, Times, quantile
from tests.benchmarks.bench_release.scenarios import ERRORS, LATENCY, Scenario
from tests.benchmarks.bench_release.simulation import simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR_RATIOS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 25.0, 50.0)
LATENCY_RATIOS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 2.0, 3.0)
COLOURS = {"peer 1": "#b0703c", "peer 2": "#7a869a", "this rule": "#0b6e4f"}
LABELS = {
    "peer 1": "peer 1: 5 failed checks",
    "peer 2": "peer 2: Mann-Whitney each minute",
    "this rule": "Slipway",
}


TARGET_SECONDS = 60.0


def operating_curves(path: Path, runs: int, seed: int, told: Callable[[str], None]) -> None:
    """Simulate both curves at 25 % and draw them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    errors = curve(ERRORS, ERROR_RATIOS, runs, seed, told)
    latency = curve(LATENCY, LATENCY_RATIOS, runs, seed, told)

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 2, figsize=(11.5, 7.2), sharex="col", layout="constrained")
    draw(axes[:, 0], ERROR_RATIOS, errors, (1.0, 2.0, 5.0, 10.0, 20.0, 50.0))
    draw(axes[:, 1], LATENCY_RATIOS, latency, (1.0, 1.2, 1.5, 2.0, 3.0))
    axes[0, 0].set_ylabel("rolled back within 30 minutes, %")
    axes[1, 0].set_ylabel("median time to rollback")
    axes[1, 0].set_xlabel("canary's error rate, as a multiple of stable's 0.1 %")
    axes[1, 1].set_xlabel("canary's latency, as a multiple of stable's")
    axes[0, 1].legend(frameon=False, loc="center right")
    figure.suptitle(
        "A canary at 25 % of 20 requests per second: 1x is as good as stable, every rollback there is false"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def curve(
    scenario: Scenario, ratios: tuple[float, ...], runs: int, seed: int, told: Callable[[str], None]
) -> dict[str, list[Times]]:
    """Return each rule's times to rollback at every ratio."""
    times: dict[str, list[Times]] = {rule: [] for rule in RULES}
    for number, ratio in enumerate(ratios):
        told(f"curve, {scenario.metric} x{ratio:g}")
        seconds = simulate(replace(scenario, worse=ratio), runs, seed + number).seconds
        for rule in RULES:
            times[rule].append(seconds[rule])
    return times


def draw(
    column: np.ndarray, ratios: tuple[float, ...], times: dict[str, list[Times]], ticks: tuple[float, ...]
) -> None:
    """Draw one metric: share rolled back above, median time below."""
    share: Axes
    median: Axes
    share, median = column
    for rule in RULES:
        is_ours = rule == "this rule"
        style = {"color": COLOURS[rule], "label": LABELS[rule], "marker": "o", "markersize": 4}
        style |= {"linewidth": 2.6 if is_ours else 1.8, "zorder": 3 if is_ours else 2}
        share.plot(ratios, [100.0 * np.isfinite(seconds).mean() for seconds in times[rule]], **style)
        medians = np.array([quantile(seconds, 0.5) for seconds in times[rule]])
        median.plot(ratios, np.where(np.isfinite(medians), medians, np.nan), **style)
    share.set_ylim(-3, 103)
    median.axhline(TARGET_SECONDS, color="#999999", linewidth=0.9, linestyle=":")
    median.set_yscale("log")
    median.set_yticks([10, 30, 60, 300, 600, 1800], ["10 s", "30 s", "1 min", "5 min", "10 min", "30 min"])
    median.set_ylim(8, 2_000)
    median.set_xscale("log")
    median.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    for axis in (share, median):
        axis.minorticks_off()
        axis.grid(color="#e6e6e6", linewidth=0.8)
