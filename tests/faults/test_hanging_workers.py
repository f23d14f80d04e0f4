"""A worker of `diloco` that hangs: the others go on without it, so that only its own time tells that it does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil
import pytest

from pipelines.errors import ExitCode
from pipelines.training.launch import RANK_MODULE
from pipelines.training.supervision.events import EventKind, read_events
from pipelines.training.supervision.heartbeat import Heartbeat, Phase, read_heartbeats
from pipelines.training.supervision.watchdog import MEASURED_STEPS
from tests.training_case import TrainingCase, make_case, processes_below, wait_for

ENDLESS = 100_000
"""Steps that take much longer than any deadline here."""

SOON_SECONDS = 120.0
"""By when a rank that hangs is found, and by when a training has ended that goes on without it."""


def workers_case(folder: Path, max_steps: int) -> TrainingCase:
    """Lay out a training of two workers, either of which goes on without the other."""
    return make_case(
        folder,
        ranks=2,
        max_steps=max_steps,
        checkpoint_every_steps=100,
        max_restarts=1,
        strategy={"kind": "diloco", "inner_steps": 20, "overlap_steps": 5, "worker_timeout_seconds": 3},
        watchdog={"factor": 20.0, "min_seconds": 8.0, "start_seconds": 5 * SOON_SECONDS},
    )


def hang(step: subprocess.Popen[str], case: TrainingCase, rank: int) -> None:
    """Stop a rank within one of its steps, once the watchdog knows how long they take."""
    seen = set[int]()

    def is_measured() -> bool:
        beat = newest_beat(case, rank)
        if beat and beat.phase is Phase.TRAINING:
            seen.add(beat.step)
        return len(seen) > MEASURED_STEPS + 1 and bool(case.checkpoint_steps())

    wait_for(is_measured, f"rank {rank} takes steps")
    wait_for(lambda: is_stopped_in_a_step(step, case, rank), f"rank {rank} is stopped within a step")


def is_stopped_in_a_step(step: subprocess.Popen[str], case: TrainingCase, rank: int) -> bool:
    """Stop a rank; let it go on when it is busy with something else."""
    found = [each for each in processes_below(step.pid, RANK_MODULE) if each.environ()["RANK"] == str(rank)]
    victim = max(found, key=psutil.Process.create_time)  # the older one of two is torchrun's, and waits for it
    victim.suspend()
    beat = newest_beat(case, rank)
    if beat and beat.phase is Phase.TRAINING:
        return True
    victim.resume()
    return False


def newest_beat(case: TrainingCase, rank: int) -> Heartbeat | None:
    folders = case.home.rglob("heartbeats")
    return next((beat for folder in folders if (beat := read_heartbeats(folder).get(rank))), None)


def told(case: TrainingCase, kind: EventKind) -> str | None:
    """Return the first event of a kind that befell a training."""
    events = (event for file in case.home.rglob("events.jsonl") for event in read_events(file))
    return next((event.text for event in events if event.kind is kind), None)


def test_when_rank_0_hangs_all_are_started_again_from_the_newest_checkpoint(tmp_path: Path) -> None:
    case = workers_case(tmp_path, ENDLESS)
    with case.started(case.info()) as step:
        hang(step, case, 0)
        saved = max(case.checkpoint_steps())
        story = wait_for(lambda: told(case, EventKind.HANG), "the hang is found", SOON_SECONDS)
        resumption = wait_for(lambda: told(case, EventKind.RESUMPTION), "the ranks are started again")
    assert re.match(r"rank 0 hangs: nothing moved for \d+ s while training after step \d+, where a step takes", story)
    assert "its process is stopped, by a signal or a debugger" in story
    assert re.match(r"the ranks were started again: rank 0 was ended by SIGKILL", told(case, EventKind.RESTART) or "")
    resumed = re.fullmatch(rf"going on after step (\d+) of {ENDLESS}", resumption)
    assert resumed, resumption
    assert int(resumed[1]) >= saved


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_keep_a_training_from_its_end(tmp_path: Path) -> None:
    case = workers_case(tmp_path, 2500)
    with case.started(case.info()) as step:
        hang(step, case, 1)
        output, _ = step.communicate(timeout=SOON_SECONDS)
    assert step.returncode == ExitCode.DONE, output
    assert re.findall(r"rank (\d) hangs: nothing moved", output) == ["1"]
    assert "the ranks were started again" not in output
    assert case.receipt(case.info()).result["steps"] == 2500
