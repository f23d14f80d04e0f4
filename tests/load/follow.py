"""Run a candidate's lifecycle from the command line, as a user does, and watch its rollout to the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines import ledger
from pipelines.errors import SlipwayError
from pipelines.ledger import Rollout
from pipelines.settings import Settings
from tests.load.candidates import Candidate
from tests.load.harm import Harm
from tests.local_stack import LocalStack

POLL_SECONDS = 0.1
END_SECONDS = 120.0
"""How long a rollout may take to end after its run has ended."""


class NotReleased(SlipwayError):
    """A candidate never got as far as a rollout, or its rollout has no end."""


def follow(
    settings: Settings,
    model: str,
    candidate: Candidate,
    *,
    note: str,
    override: str = "",
    harm: Harm | None = None,
    look: Callable[[Rollout], object] = lambda _: None,
    log: Path | None = None,
) -> Rollout:
    """Release a candidate and return its rollout, which has ended.

    Args:
        settings: the installation's.
        model: the candidate's.
        candidate: what is run.
        note: why, for the receipts.
        override: why weights that were rolled back may be tried again.
        harm: what befalls the candidate.
        look: is shown the rollout again and again.
        log: file for what the run says; None: this terminal.

    Raises:
        NotReleased: when there is no rollout, or it does not end.
    """
    url, before = settings.ledger_url(), latest(settings.ledger_url(), model)
    harm = harm or Harm()
    arguments = ["--seed", str(candidate.seed), "--max-steps", str(candidate.max_steps), "--note", note]
    arguments += ["--override", override] if override else []
    try:
        with _running(settings, candidate, arguments, log) as process:
            while process.poll() is None:
                rollout = latest(url, model)
                if rollout is not None and (before is None or rollout.id != before.id):
                    harm.look(rollout)
                    look(rollout)
                time.sleep(POLL_SECONDS)
    finally:
        harm.end()
    rollout = latest(url, model)
    if rollout is None or (before is not None and rollout.id == before.id):
        raise NotReleased(f"the candidate never got as far as a rollout; {log or 'the lines above'} say why")
    return _end_of(url, rollout)


def environment(settings: Settings, candidate: Candidate) -> dict[str, str]:
    """Return what a candidate's run is told: the installation's settings, also when its sources lie elsewhere."""
    told = LocalStack(settings.model_copy(update={"home": settings.resolved_home()})).environment
    return {**told, "PYTHONPATH": os.pathsep.join([str(candidate.tree), str(candidate.tree / "plugins")])}


def latest(url: str, service: str) -> Rollout | None:
    """Return the rollout that was opened last, or None."""
    return next(iter(ledger.list_rollouts(url, service, limit=1)), None)


@contextlib.contextmanager
def _running(
    settings: Settings, candidate: Candidate, arguments: list[str], log: Path | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `python -m pipelines run` for a block; if the block fails, interrupt it, and let it roll back."""
    command = [sys.executable, "-m", "pipelines", "run", "--spec", str(candidate.spec), *arguments]
    with contextlib.ExitStack() as opened:
        output = None if log is None else opened.enter_context(log.open("w", encoding="utf-8"))
        process = subprocess.Popen(
            command,
            cwd=candidate.tree,
            env=environment(settings, candidate),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=END_SECONDS)
            raise


def _end_of(url: str, rollout: Rollout) -> Rollout:
    deadline = time.monotonic() + END_SECONDS
    while not rollout.state.is_final:
        if time.monotonic() > deadline:
            raise NotReleased(f"{rollout} does not end: {rollout.state.phase}, {rollout.state.hold_reason}")
        time.sleep(POLL_SECONDS)
        rollout = ledger.read_rollout(url, rollout.id)
    return rollout
