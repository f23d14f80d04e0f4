"""What `make soak` does: 20 releases on a stack of its own, 12 good and 8 bad, while users send 20 requests/s.

    python -m tests.load.soak [--only a-a,errors] [--count 4]

The controller, Envoy and the copies are real; the users' own record is the judge. The exit status is 0 only if every
good candidate was promoted, every bad one was rolled back for what is wrong with it, the right version serves
afterwards, and no user went without an answer for any other reason than the candidate's share of failures.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.errors import BadInput, SlipwayError
from pipelines.ledger import Rollout
from pipelines.release.report import facts
from tests.load.demo import exit_status
from tests.load.endings import Ending, Kind, table, total
from tests.load.releases import Releases
from tests.local_stack import LocalStack, lay_out

PLAN = (
    Kind.SAME, Kind.BETTER, Kind.ERRORS, Kind.BETTER, Kind.SLOW, Kind.SAME, Kind.BETTER, Kind.WRONG_ANSWERS,
    Kind.SAME, Kind.DIES, Kind.BETTER, Kind.ERRORS, Kind.SAME, Kind.BETTER, Kind.SLOW, Kind.BETTER,
    Kind.WRONG_ANSWERS, Kind.SAME, Kind.DIES, Kind.BETTER,
)  # fmt: skip
"""12 good ones, 5 of them A/A, and two of each bad kind, mixed."""


class SoakFailed(SlipwayError):
    """Some rollout did not end as it should, or the stack did not start or stop."""


@contextlib.contextmanager
def own_stack(first_port: int | None) -> Iterator[tuple[LocalStack, Path]]:
    """Run a stack for a block, in a folder that is kept only if the block fails.

    Raises:
        SoakFailed: when it does not start, or does not stop.
    """
    folder = Path(tempfile.mkdtemp(prefix="slipway-soak-"))
    print(f"A stack of its own, in {folder}", flush=True)
    stack = lay_out(folder, first_port)
    try:
        _require(stack.run("up"))
        yield stack, folder
    finally:
        stopped = stack.run("down")
        print(stopped.stdout.strip(), flush=True)
        stack.remove()
    _require(stopped)
    shutil.rmtree(folder)


def soak(plan: Sequence[Kind], first_port: int | None) -> None:
    """Carry out a plan on a stack of its own, and print how each rollout goes and all ended.

    Raises:
        SoakFailed: when one did not end as it should.
    """
    endings: list[Ending] = []
    with own_stack(first_port) as (stack, folder):
        releases = Releases(stack.settings, stack.settings.models_dir / "tiny.yaml", folder)
        releases.begin()
        try:
            for number, kind in enumerate(plan, start=1):
                line = _Line(f"{number:2}/{len(plan)}  {kind:13}")
                endings.append(releases.release(kind, line.show))
                line.end(endings[-1])
        finally:
            print(f"\n{table(endings)}\n\n{total(endings)}", flush=True)
        if any(each.problems() for each in endings):
            raise SoakFailed("not every rollout ended as it should; the table says which")


class _Line:
    """One line about a rollout: rewritten on a terminal while it goes, printed once elsewhere."""

    def __init__(self, head: str) -> None:
        self._head, self._began = head, time.monotonic()

    def show(self, rollout: Rollout) -> None:
        if sys.stdout.isatty():
            now = facts(rollout)
            print(f"\r\033[K{self._head}  {now.phase:12} {now.weight:3g} %  {self._seconds()}", end="", flush=True)

    def end(self, ended: Ending) -> None:
        start = "\r\033[K" if sys.stdout.isatty() else ""
        verdict = "; ".join(ended.problems()) or ended.reason
        print(f"{start}{self._head}  {ended.phase:12} {ended.weight:3g} %  {self._seconds()}  {verdict}", flush=True)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:4.0f} s"


def _require(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise SoakFailed(done.stdout.strip())


def plan_of(only: str, count: int | None) -> tuple[Kind, ...]:
    """Return the part of the plan that was asked for.

    Args:
        only: kinds, separated by commas; empty: all.
        count: most rollouts; None: all.

    Raises:
        BadInput: for an unknown kind.
    """
    wanted = [kind.strip() for kind in only.split(",") if kind.strip()] or list(Kind)
    if unknown := [kind for kind in wanted if kind not in list(Kind)]:
        raise BadInput(f"--only: no kind {', '.join(unknown)}; there are {', '.join(Kind)}")
    return tuple(kind for kind in PLAN if kind in wanted)[:count]


def main() -> int:
    """Parse the command line, carry it out, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"kinds, separated by commas: {', '.join(Kind)}")
    parser.add_argument("--count", type=int, help="stop after so many rollouts")
    parser.add_argument("--first-port", type=int, help="of 41 in a row; without it, some that are free")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return exit_status(lambda: soak(plan_of(arguments.only, arguments.count), arguments.first_port))


if __name__ == "__main__":
    sys.exit(main())
