"""Kill -9 of one of two ranks, again and again at random steps, while torchrun starts them again.

    python -m tests.benchmarks.bench_kills [--kills 20]

Bars: every kill is recovered from; the first new reading comes within 1.5x of a cold start's, median against median;
no more is lost than one interval between checkpoints and the steps that one takes to be written; and the weights at
the end are those of a training that nothing disturbed, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ExitCode
from pipelines.training.launch import RANK_MODULE
from pipelines.training.metrics import Reading, read_metrics
from tests.training_case import TrainingCase, make_case, processes_below, wait_for

BAR_RESTART = 1.5
EVERY_STEPS = 100
FIRST_READING_STEPS = 1
"""A training that goes on is read after so many steps."""


@dataclass(frozen=True)
class Recovery:
    """What came of one kill."""

    seconds: float
    """From the kill to the first new reading."""

    lost_steps: int
    """Steps taken again, as far as readings tell."""


def readings_of(case: TrainingCase) -> list[Reading]:
    """Return the readings of the training that runs."""
    files = sorted(case.home.rglob("metrics.jsonl"), key=lambda file: file.stat().st_mtime)
    return read_metrics(files[-1]) if files else []


def newest_step(case: TrainingCase) -> int:
    """Return how far the training is; a rank that starts again writes its readings anew."""
    return wait_for(lambda: readings_of(case), "a reading")[-1].step


def first_reading(case: TrainingCase, since: float) -> float:
    """Return how long after a moment the first reading was taken."""

    def newer() -> list[float]:
        return [reading.at for reading in readings_of(case) if reading.at > since]

    return wait_for(newer, "a reading")[0] - since


def cold_start(case: TrainingCase, run_id: str) -> float:
    """Return how long a new training takes to its first reading, then end it."""
    since = time.time()
    with case.started(case.info(run_id, force=True)):
        return first_reading(case, since)


def kill_once(case: TrainingCase, step: subprocess.Popen[str], chance: random.Random) -> Recovery:
    """Let the training go on for some steps, kill a rank, and see it come back."""
    wanted = newest_step(case) + chance.randrange(2 * EVERY_STEPS)
    before = wait_for(lambda: done if (done := newest_step(case)) >= wanted else 0, f"step {wanted}")
    since = time.time()
    chance.choice(wait_for(lambda: processes_below(step.pid, RANK_MODULE), "a rank")).kill()
    seconds = first_reading(case, since)
    first_new = next(reading.step for reading in readings_of(case) if reading.at > since)
    return Recovery(seconds, before - (first_new - FIRST_READING_STEPS))


def run(case: TrainingCase, kills: int, chance: random.Random) -> list[Recovery]:
    """Train to the end, disturbed."""
    info = case.info("disturbed")
    with case.started(info) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        recoveries = [kill_once(case, step, chance) for _ in range(kills)]
        output, _ = step.communicate()
    if step.returncode != ExitCode.DONE:
        raise SystemExit(f"error: the training ended with {step.returncode}:\n{output}")
    return recoveries


def unbroken_weights(folder: Path, steps: int) -> tuple[bytes, float]:
    """Return the weights of a training that nothing disturbs, and a median cold start."""
    case = new_case(folder, steps, 0)
    status, output = case.run(case.info())
    if status != ExitCode.DONE:
        raise SystemExit(f"error: the unbroken training ended with {status}:\n{output}")
    return case.weights(case.receipt(case.info())), statistics.median(cold_start(case, f"cold-{n}") for n in range(3))


def new_case(folder: Path, steps: int, restarts: int) -> TrainingCase:
    """Lay out a training of two ranks."""
    folder.mkdir()
    return make_case(
        folder, ranks=2, max_steps=steps, checkpoint_every_steps=EVERY_STEPS, max_restarts=restarts, precision="fp32"
    )


def main() -> int:
    """Print what came of the kills; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often a rank is killed (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims (default 1)")
    arguments = parser.parse_args()
    steps = 400 * (arguments.kills + 2)
    with tempfile.TemporaryDirectory() as name:
        expected, cold = unbroken_weights(Path(name) / "unbroken", steps)
        case = new_case(Path(name) / "disturbed", steps, arguments.kills)
        recoveries = run(case, arguments.kills, random.Random(arguments.seed))  # noqa: S311 - no secret
        is_equal = case.weights(case.receipt(case.info("disturbed"))) == expected
    ratio = statistics.median(recovery.seconds for recovery in recoveries) / cold
    worst = max(recovery.seconds for recovery in recoveries) / cold
    lost = max(recovery.lost_steps for recovery in recoveries)
    print(f"kills: {len(recoveries)} of {arguments.kills} recovered, load {os.getloadavg()[0]:.1f}")
    print(f"first new reading / cold start: {ratio:.2f}x, worst {worst:.2f}x, bar {BAR_RESTART}x")
    print(f"most steps taken again: {lost}, one checkpoint every {EVERY_STEPS}")
    print(f"weights bit-identical to the unbroken training: {is_equal}")
    return int(ratio > BAR_RESTART or not is_equal)


if __name__ == "__main__":
    sys.exit(main())
