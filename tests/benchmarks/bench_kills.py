"""Kill -9 of one of two ranks, again and again at random moments, while torchrun starts them again.

    python -m tests.benchmarks.bench_kills [--kills 20]

Bars: every kill is recovered from; the first new step comes within 1.5x of a cold start's, median against median; the
training goes on from the newest checkpoint that was begun, or from the one before where that was still being written,
so that at most one interval is lost beside the steps taken during a write; and the weights at the end are those of a
training that nothing disturbed, bit by bit. About four minutes on two quiet cores; `--kills 3` about one.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.errors import ExitCode
from pipelines.training.launch import RANK_MODULE
from pipelines.training.metrics import Reading, read_metrics
from tests.benchmarks.figures import Figure, circumstances
from tests.training_case import DEADLINE_SECONDS, TrainingCase, make_case, processes_below, wait_for

BAR_RESTART = 1.5
EVERY_STEPS = 25
"""Steps between checkpoints."""

LONGEST_SECONDS = 1.5
"""A kill comes at a random moment of so many seconds after the first new step."""

STEPS_PER_KILL = 150
"""More than a training takes between two kills, so that there is a training to kill until the last."""

COLD_STARTS = 3
"""Beside those of the disturbed and the unbroken training."""


@dataclass(frozen=True)
class Recovery:
    """What came of one kill."""

    seconds: float
    """From the kill to the first new step."""

    reached: int
    """Step of the last reading before the kill; there is one at each checkpoint and every 0.1 s."""

    resumed: int
    """Step after which the ranks went on."""

    @property
    def lost_steps(self) -> int:
        """Steps taken again."""
        return self.reached - self.resumed

    @property
    def lost_of_interval(self) -> int:
        """Steps taken again, without those taken while a checkpoint was being written."""
        begun = self.reached // EVERY_STEPS * EVERY_STEPS
        return (begun if begun > self.resumed else self.reached) - self.resumed


def readings_of(case: TrainingCase) -> list[Reading]:
    """Return the readings of the training that runs."""
    files = sorted(case.home.rglob("metrics.jsonl"), key=lambda file: file.stat().st_mtime)
    return read_metrics(files[-1]) if files else []


def first_reading(case: TrainingCase, step: subprocess.Popen[str], since: float) -> Reading:
    """Return the first reading that was taken after a moment: a training that begins or goes on has one at once."""

    def newer() -> list[Reading]:
        found = [reading for reading in readings_of(case) if reading.at > since]
        if not found and step.poll() is not None:
            raise SystemExit(f"error: the training ended with {step.returncode} before its next step")
        return found

    return wait_for(newer, "a reading")[0]


def cold_start(case: TrainingCase, run_id: str) -> float:
    """Return how long a new training takes to its first step, then end it."""
    since = time.time()
    with case.started(case.info(run_id, force=True)) as step:
        seconds = first_reading(case, step, since).at - since
        ranks = processes_below(step.pid, RANK_MODULE)
    psutil.wait_procs(ranks, timeout=DEADLINE_SECONDS)  # else their last readings were those of the next one
    return seconds


def kill_once(case: TrainingCase, step: subprocess.Popen[str], chance: random.Random) -> Recovery:
    """Let the training go on for a moment, kill a rank, and see both come back."""
    time.sleep(chance.uniform(0.0, LONGEST_SECONDS))
    ranks = processes_below(step.pid, RANK_MODULE)
    if not ranks:
        raise SystemExit("error: the training ended before the last kill; raise STEPS_PER_KILL")
    killed = time.time()
    chance.choice(ranks).kill()
    psutil.wait_procs(ranks, timeout=DEADLINE_SECONDS)  # the other one may still take a reading
    gone, reached = time.time(), readings_of(case)[-1].step
    new = first_reading(case, step, gone)
    return Recovery(new.at - killed, reached, new.step - 1)


def train(case: TrainingCase, kills: int, chance: random.Random) -> tuple[float, list[Recovery]]:
    """Train to the end; return the time to the first step, and what came of each kill."""
    recoveries: list[Recovery] = []
    since = time.time()
    with ThreadPoolExecutor(1) as thread, case.started(case.info()) as step:
        output = thread.submit(step.communicate)  # a full pipe would stop it
        start = first_reading(case, step, since).at - since
        for _ in range(kills):
            recoveries.append(kill_once(case, step, chance))
            print(f"  {recoveries[-1]}", flush=True)
        check_done(output.result()[0], step.returncode)
    return start, recoveries


def check_done(output: str, status: int) -> None:
    """End here when a training failed."""
    if status != ExitCode.DONE:
        raise SystemExit(f"error: the training ended with {status}:\n{output}")


def new_case(folder: Path, kills: int) -> TrainingCase:
    """Lay out a training of two ranks."""
    folder.mkdir()
    steps = STEPS_PER_KILL * (kills + 1)
    return make_case(
        folder, ranks=2, max_steps=steps, checkpoint_every_steps=EVERY_STEPS, max_restarts=kills, precision="fp32"
    )


def weights(case: TrainingCase) -> bytes:
    """Return what a finished training published."""
    return case.weights(case.receipt(case.info()))


def tell(recoveries: list[Recovery], kills: int, starts: list[float], *, is_equal: bool) -> bool:
    """Print a verdict for each bar; return whether all are held."""
    ratio = Figure.ratio([recovery.seconds for recovery in recoveries], starts)
    slowest = max(recovery.seconds for recovery in recoveries)
    taken_again = max(recovery.lost_steps for recovery in recoveries)
    lost = max(recovery.lost_of_interval for recovery in recoveries)
    held = {
        f"recovered: {len(recoveries)} of {kills} kills": len(recoveries) == kills,
        f"kill to first new step: {Figure.median([r.seconds for r in recoveries]).told(' s', 2)}, slowest "
        f"{slowest:.2f} s; cold start {Figure.median(starts).told(' s', 2)}; ratio {ratio.told('x', 2)}, "
        f"bar {BAR_RESTART}x": ratio.value <= BAR_RESTART,
        f"steps taken again: at most {taken_again}; without those taken while a checkpoint was being written {lost}, "
        f"bar: the {EVERY_STEPS} between checkpoints": lost <= EVERY_STEPS,
        "weights are those of the unbroken training, bit by bit": is_equal,
    }
    for told, is_held in held.items():
        print(f"{told}: {'held' if is_held else 'missed'}")
    return all(held.values())


def main() -> int:
    """Print what came of the kills; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often a rank is killed (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims (default 1)")
    arguments = parser.parse_args()
    kills, chance = arguments.kills, random.Random(arguments.seed)  # noqa: S311 - no secret
    print(circumstances(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        unbroken, disturbed = (new_case(Path(name) / side, kills) for side in ("unbroken", "disturbed"))
        cold = [cold_start(unbroken, f"cold-{number}") for number in range(COLD_STARTS)]
        alone, _ = train(unbroken, 0, chance)
        start, recoveries = train(disturbed, kills, chance)
        is_equal = weights(disturbed) == weights(unbroken)
    is_held = tell(recoveries, kills, [*cold, alone, start], is_equal=is_equal)
    print(circumstances())
    return int(not is_held)


if __name__ == "__main__":
    sys.exit(main())
