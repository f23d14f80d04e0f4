"""The tables: shares with exact intervals, medians with bootstrapped ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench_release.rollouts import Ends, peer_rollouts, slipway_rollouts
from tests.benchmarks.bench_release.scenarios import Scenario, alike, limits, worse
from tests.benchmarks.bench_release.simulation import Outcome, simulate

RULES = ("peer 1", "peer 2", "this rule")
MAX_FALSE_UPPER = 0.015
MAX_SECONDS_AT_25 = 60.0
NUM_RESAMPLES = 400

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One line of a table: a setting and what each rule did."""

    setting: str
    cells: tuple[str, ...]


def share_interval(count: int, runs: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(count, runs).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def share(hits: NDArray[np.bool_]) -> str:
    """Write a share of runs with its interval."""
    low, high = share_interval(int(hits.sum()), len(hits))
    return f"{100 * hits.mean():.2f} % ({100 * low:.2f}-{100 * high:.2f})"


def median(seconds: Times, seed: int = 0) -> str:
    """Write a median with its bootstrapped 95 % interval."""
    rng = np.random.default_rng(seed)
    resampled = np.quantile(rng.choice(seconds, (NUM_RESAMPLES, len(seconds))), 0.5, axis=1, method="lower")
    low, high = np.quantile(resampled, [0.025, 0.975], method="nearest")
    middle = quantile(seconds, 0.5)
    return written(middle) if low == high else f"{written(middle)} ({written(low)}-{written(high)})"


def quantile(seconds: Times, q: float) -> float:
    """Return a quantile that was really observed; infinite when too many runs were never rolled back."""
    return float(np.quantile(seconds, q, method="higher"))


def written(seconds: float) -> str:
    return f"{seconds:.0f} s" if np.isfinite(seconds) else "never"


def false_rollbacks(seconds: Times) -> str:
    return share(np.isfinite(seconds))


def detection(seconds: Times) -> str:
    """Write median, 90th percentile and misses."""
    missed = np.isinf(seconds).mean()
    if missed > 0.5:
        return f"missed {100 * missed:.1f} %"
    return f"{median(seconds)}; 90 % by {written(quantile(seconds, 0.9))}; missed {100 * missed:.1f} %"


def run_all(scenarios: Mapping[str, Scenario], runs: int, seed: int, told: Callable[[str], None]) -> dict[str, Outcome]:
    """Simulate every scenario, saying which."""
    outcomes = {}
    for number, (name, scenario) in enumerate(scenarios.items()):
        told(name)
        outcomes[name] = simulate(scenario, runs, seed + number)
    return outcomes


def rows(outcomes: Mapping[str, Outcome], cell: Callable[[Times], str]) -> list[Row]:
    return [Row(name, tuple(cell(outcome.seconds[rule]) for rule in RULES)) for name, outcome in outcomes.items()]


def table(title: str, lines: Iterable[Row]) -> str:
    """Return a markdown table."""
    head = [f"| {title} | {' | '.join(RULES)} |", "|---|" + "---|" * len(RULES)]
    return "\n".join([*head, *(f"| {row.setting} | {' | '.join(row.cells)} |" for row in lines)])


def rollout_rows(runs: int, seed: int) -> list[Row]:
    """Return what whole rollouts come to, of a good canary and of one with 1 % errors."""

    def cell(ends: Ends) -> str:
        promoted = np.isfinite(ends.promoted_after)
        after = f" in {median(ends.promoted_after[promoted])}" if promoted.mean() > 0.05 else ""
        return f"promoted {share(promoted)}{after}; rolled back {100 * ends.rolled_back.mean():.1f} %"

    return [
        Row(
            f"canary with {100 * rate:g} % errors",
            (cell(peer_rollouts(rate, runs, seed)), "-", cell(slipway_rollouts(rate, runs, seed))),
        )
        for rate in (0.001, 0.01)
    ]


def bars(equal: Mapping[str, Outcome], different: Mapping[str, Outcome]) -> list[tuple[str, bool]]:
    """Return each bar as a sentence with its figure, and whether it holds."""
    false = {name: int(np.isfinite(outcome.seconds["this rule"]).sum()) for name, outcome in equal.items()}
    runs = len(next(iter(equal.values())).seconds["this rule"])
    worst = max(false, key=lambda name: false[name])
    upper = share_interval(false[worst], runs)[1]
    highest = f"{100 * false[worst] / runs:.2f} %, upper 95 % bound {100 * upper:.2f} %"
    limit = f"limit {100 * MAX_FALSE_UPPER:.1f} %"
    found = [
        (
            f"false rollback, every A/A setting of the first table: {highest} ({limit}), in '{worst}'",
            upper <= MAX_FALSE_UPPER,
        )
    ]
    for name in ("errors 0.1 to 5 %", "latency x2"):
        for variant in (f"{name}, at 25%", f"{name}, the product's defaults, at 25%"):
            seconds = different[variant].seconds["this rule"]
            late = quantile(seconds, 0.9)
            held = late <= MAX_SECONDS_AT_25 and bool(np.isfinite(seconds).all())
            found.append((f"{variant}: 90 % rolled back by {written(late)} (limit {MAX_SECONDS_AT_25:.0f} s)", held))
    return found


def not_claimed(beyond: Mapping[str, Outcome]) -> list[str]:
    """Return the A/A settings of the second table in which the limit on false rollbacks does not hold."""
    lines = []
    for name, outcome in beyond.items():
        hits = np.isfinite(outcome.seconds["this rule"])
        if share_interval(int(hits.sum()), len(hits))[1] > MAX_FALSE_UPPER:
            lines.append(f"- not claimed: {name}: {share(hits)} rolled back falsely")
    return lines


def report(runs: int, seed: int, told: Callable[[str], None]) -> str:
    """Simulate everything and return the markdown."""
    equal = run_all(alike(), runs, seed, told)
    beyond = run_all(limits(), runs, seed + 1_000, told)
    different = run_all(worse(), runs, seed + 2_000, told)
    told("whole rollouts")
    verdicts = [f"- {'held' if held else '**MISSED**'}: {sentence}" for sentence, held in bars(equal, different)]
    return "\n\n".join(
        [
            f"{runs:,} runs per row, 30 minutes each unless said otherwise; 95 % intervals in brackets.",
            table("canary as good as stable: rolled back", rows(equal, false_rollbacks)),
            table("the same, with a protection off or beyond the design", rows(beyond, false_rollbacks)),
            table("canary worse: time to rollback", rows(different, detection)),
            table("whole rollout, errors", rollout_rows(runs, seed)),
            "\n".join([*verdicts, *not_claimed(beyond)]),
        ]
    )
