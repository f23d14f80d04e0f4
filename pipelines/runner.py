"""One try of a work step; and its run as a process of this machine: exactly the command that a pod runs."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from pipelines import process
from pipelines.errors import ExitCode, ReceiptMissing, SlipwayError
from pipelines.settings import REPOSITORY, Settings
from pipelines.step import Receipt, RunInfo, command, read_receipt, write_inputs
from pipelines.store import Store

GRACE_SECONDS = 3.0
"""How long a stopped step may clean up; Airflow kills a task 5 s after it asked it to end."""

_INTERRUPTS = frozenset({128 + signal.SIGINT, 128 + signal.SIGKILL, 128 + signal.SIGTERM})
_TAIL_LINES = 20


class Ending(StrEnum):
    """How a step's process ended."""

    DONE = "done"
    RETRY = "failed, a retry may help"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    UNEXPECTED = "failed unexpectedly"


def ending(status: int) -> Ending:
    """Return what an exit status means; a negative one is the signal that ended the process."""
    if status < 0 or status in _INTERRUPTS:
        return Ending.INTERRUPTED
    match status:
        case ExitCode.DONE:
            return Ending.DONE
        case ExitCode.RETRY:
            return Ending.RETRY
        case ExitCode.REFUSED:
            return Ending.REFUSED
        case _:
            return Ending.UNEXPECTED


class StepFailed(SlipwayError):
    """A step's process ended without doing its work; the message is the step's own."""

    def __init__(self, step: str, status: int, message: str) -> None:
        super().__init__(f"{step}: {ending(status)} (exit status {status}): {message}")
        self.status = status

    @property
    def ending(self) -> Ending:
        """How the process ended."""
        return ending(self.status)

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit status with which whoever ran the step reports this error."""
        match self.ending:
            case Ending.REFUSED:
                return ExitCode.REFUSED
            case Ending.RETRY | Ending.INTERRUPTED:
                return ExitCode.RETRY
            case _:
                return ExitCode.UNEXPECTED


class StepTry:
    """One try of one work step, wherever it runs: what its process is told, and what it leaves."""

    def __init__(self, name: str, spec_uri: str, info: RunInfo, settings: Settings) -> None:
        self._name = name
        self._spec_uri = spec_uri
        self._info = info
        self._settings = settings
        self._store = Store(settings.store_url())

    @property
    def arguments(self) -> list[str]:
        """The arguments after `python`."""
        return command(self._name, self._spec_uri, self._info)

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Put the inputs where the process reads them; an earlier run of the same name may have left a receipt."""
        self._store.delete(self._info.receipt_uri)
        write_inputs(self._store, self._info, inputs)

    def receipt(self) -> Receipt:
        """Return what the process left: the only result that counts.

        Raises:
            ReceiptMissing: when this try left no receipt of its own.
        """
        return check_receipt(read_receipt(self._store, self._info.receipt_uri), self._name, self._info)


class WorkStep(StepTry):
    """One try of one work step as a process of this machine."""

    _group: process.Group | None = None

    @property
    def command(self) -> list[str]:
        """The process's arguments."""
        return [sys.executable, *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The process's environment: what is allowed, and where things are."""
        return {
            **process.allowed_environment(os.environ),
            "PYTHONUNBUFFERED": "1",
            "SLIPWAY_STORE": self._settings.store_url(),
            "SLIPWAY_HOME": str(self._settings.resolved_home()),
        }

    def run(self, inputs: Mapping[str, Any], say: Callable[[str], object]) -> Receipt:
        """Do the work and return its receipt; `say` gets every line that the process prints.

        Raises:
            StepFailed: when the process ends with another status than 0.
            ReceiptMissing: when it ends with 0 and this try left no receipt of its own.
        """
        self.begin(inputs)
        status, message = self._follow(say)
        if ending(status) is not Ending.DONE:
            raise StepFailed(self._name, status, message)
        return self.receipt()

    def stop(self) -> None:
        """Ask the process and its group to end, and make them when they do not; returns at once."""
        if self._group is not None:
            self._group.stop(GRACE_SECONDS)

    def _follow(self, say: Callable[[str], object]) -> tuple[int, str]:
        group = process.Group(self.command, environment=self.environment, directory=REPOSITORY)
        self._group = group
        last: deque[str] = deque(maxlen=_TAIL_LINES)
        try:
            for line in group.lines():
                last.append(line)
                say(line)
        except BaseException:
            group.stop(GRACE_SECONDS)
            raise
        finally:
            status = group.wait()
        return status, last_words(list(last))


def check_receipt(receipt: Receipt, step: str, info: RunInfo) -> Receipt:
    """Return a receipt if it is this very try's.

    Raises:
        ReceiptMissing: when it is of another step, run, task or try.
    """
    if (receipt.step, receipt.run) != (step, info):
        raise ReceiptMissing(
            f"receipt {info.receipt_uri} is of another try (step {receipt.step}, run {receipt.run.run_id}, "
            f"task {receipt.run.task_id}, try {receipt.run.try_number}): the step did not finish; see its log, "
            "then clear the task"
        )
    return receipt


def last_words(lines: list[str]) -> str:
    """Return the step's error: from its last `error:` line on, else its last line."""
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("error: "):
            return "\n".join(lines[number:]).removeprefix("error: ")
    return lines[-1] if lines else "it printed nothing"
