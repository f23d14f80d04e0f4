"""Why a training's processes failed, in words."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipelines import errors
from pipelines.errors import ExitCode, RanksFailed, SlipwayError
from pipelines.training.files import replace_text
from pipelines.training.job import TrainingJob

TAIL_LINES = 15

_DEATH = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""torchrun's line about the rank that died first."""


def prepare_reason(job: TrainingJob) -> Path:
    """Return where this rank says why it fails, in this attempt of torchrun."""
    folder = job.failures_folder / os.environ["TORCHELASTIC_RESTART_COUNT"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"rank-{os.environ['RANK']}.json"


def leave_reason(file: Path, error: SlipwayError) -> ExitCode:
    """Write down why a rank fails, in one step; return its exit status."""
    replace_text(file, json.dumps({"kind": type(error).__name__, "message": str(error)}))
    return error.exit_code


def final_reason(job: TrainingJob) -> SlipwayError | None:
    """Return a rank's reason that another attempt would meet again, if there is one."""
    reasons = _reasons(job.failures_folder.glob("*/rank-*.json"))
    return next((reason for reason in reasons if not reason.retryable), None)


def explain_failure(
    job: TrainingJob, output: Iterable[str], explain_kill: Callable[[int], SlipwayError | None]
) -> SlipwayError:
    """Return why a training failed: a rank's own reason, else how the first rank to die ended and its last lines.

    Args:
        job: the training.
        output: last lines of torchrun.
        explain_kill: returns why a rank was ended by SIGKILL, or None when that is not known.
    """
    last_attempt = max((int(folder.name) for folder in job.failures_folder.iterdir()), default=0)
    reasons = _reasons((job.failures_folder / str(last_attempt)).glob("rank-*.json"))
    if reason := final_reason(job) or next(reasons, None):
        return reason
    found = _first_death(job)
    if found is None:
        return RanksFailed(f"training: torchrun ended; its last lines:\n{indent(output)}")
    rank, exit_code = found
    explained = explain_kill(rank) if exit_code == -signal.SIGKILL else None
    return explained or RanksFailed(
        f"training: rank {rank} {ending(exit_code)}; a retry goes on from the newest checkpoint. "
        f"Last lines of its log:\n{indent(_last_lines(job, rank))}"
    )


def _first_death(job: TrainingJob) -> tuple[int, int] | None:
    """Return the rank that died first in the last attempt, and its exit status; None when torchrun told nothing."""
    death = job.workspace / "failure.json"
    if not death.is_file():
        return None
    told = json.loads(death.read_bytes())
    return told["rank"], told["exit_code"]


def death_in(line: str) -> tuple[int, int] | None:
    """Return the rank of this machine and the exit status that a line of torchrun tells, if it tells a death."""
    found = _DEATH.search(line)
    return (int(found[2]), int(found[1])) if found else None


def ending(exit_code: int) -> str:
    """Return how a process ended."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was ended by {name}{' (killed, or out of memory)' if -exit_code == signal.SIGKILL else ''}"
    return f"ended with exit status {exit_code}"


def _last_lines(job: TrainingJob, rank: int) -> list[str]:
    """Return the end of a rank's newest log; the names are torchrun's, and count the ranks of this machine."""
    local_rank = rank % job.place.local_ranks(job.training.ranks)
    found = sorted(job.logs_folder.glob(f"*/attempt_*/{local_rank}/stderr.log"), key=lambda file: file.stat().st_mtime)
    if not found:
        return []
    return found[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]


def indent(lines: Iterable[str]) -> str:
    """Return lines as a block below a message."""
    return "\n".join(f"    {line}" for line in lines) or "    (nothing)"


def _reasons(files: Iterable[Path]) -> Iterator[SlipwayError]:
    for file in sorted(files):
        told = json.loads(file.read_bytes())
        error: SlipwayError = getattr(errors, told["kind"])(told["message"])
        yield error
