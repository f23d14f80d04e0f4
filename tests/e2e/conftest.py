"""One stack for all end-to-end tests: its own home, ports and specs, started and stopped as a user does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pipelines.stack.summary import load_receipts
from pipelines.step import Receipt
from pipelines.store import Store
from tests.local_stack import LocalStack, lay_out

STEPS = 300
"""Training steps of the first release: enough for something to die in the middle of them."""

RUN_SECONDS = 400


@dataclass(frozen=True)
class FirstRun:
    """The first release of the tiny model, as its user saw it."""

    output: str

    @property
    def id(self) -> str:
        """Airflow's id of the run."""
        return self.output.split()[1]

    def receipts(self, stack: LocalStack) -> dict[str, Receipt]:
        """Return the receipt of each task."""
        return load_receipts(Store(stack.settings.store_url()), "tiny", self.id)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], LocalStack]]:
    """Make stacks with a home, ports and a tiny spec of their own; whatever still runs at the end is stopped."""
    made: list[LocalStack] = []

    def make() -> LocalStack:
        made.append(lay_out(tmp_path_factory.mktemp("stack")))
        return made[-1]

    yield make
    for stack in made:
        stopped = stack.run("down")
        assert stopped.returncode == 0, stopped.stdout
        stack.assert_gone()
        stack.remove()


@pytest.fixture(scope="session")
def stack(make_stack: Callable[[], LocalStack]) -> LocalStack:
    """Return the one running stack that all end-to-end tests share."""
    shared = make_stack()
    started = shared.run("up")
    assert started.returncode == 0, started.stdout
    return shared


@pytest.fixture(scope="session")
def first_run(stack: LocalStack) -> FirstRun:
    """Release the tiny model once, undisturbed, through Airflow; many tests begin where it ended."""
    triggered = stack.run("trigger", "tiny", "--max-steps", str(STEPS), "--note", "first release", timeout=RUN_SECONDS)
    assert triggered.returncode == 0, triggered.stdout
    return FirstRun(triggered.stdout)
