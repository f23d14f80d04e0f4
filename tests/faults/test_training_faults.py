"""A training that is killed, starved of disk, damaged or given numbers that explode."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.errors import ExitCode
from pipelines.step import Receipt
from pipelines.training.launch import AGENT_MODULE, RANK_MODULE
from tests.training_case import DEADLINE_SECONDS, TrainingCase, make_case, processes_below, wait_for

MAX_STEPS, CHECKPOINT_EVERY = 400, 20
MOUNT, UNMOUNT = "/bin/mount", "/bin/umount"
GONE_SECONDS = 30.0
"""How long after a kill the last process may live."""


def long_case(folder: Path, **training: Any) -> TrainingCase:
    """Lay out a training of two ranks that lasts a few seconds and writes many checkpoints."""
    settings = {"ranks": 2, "max_steps": MAX_STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY, **training}
    return make_case(folder, **settings)


def newest_checkpoint(case: TrainingCase) -> int:
    return max(case.checkpoint_steps(), default=0)


def family_of(step: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(step.pid).children(recursive=True)


def finished(case: TrainingCase, try_number: int = 1) -> tuple[Receipt, str]:
    """Train to the end; return the receipt and what was printed."""
    status, output = case.run(case.info(try_number=try_number))
    assert status == ExitCode.DONE, output
    return case.receipt(case.info(try_number=try_number)), output


@dataclass(frozen=True)
class Unbroken:
    """A training that nothing disturbed."""

    model: dict[str, str]
    """What it published."""

    listened_at: set[str]
    """Addresses, while it trained."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """Train without a disturbance."""
    case = long_case(tmp_path_factory.mktemp("unbroken"))
    with case.started(case.info()) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        connections = [connection for process in family_of(step) for connection in process.net_connections("inet")]
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.DONE, output
    listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return Unbroken(case.receipt(case.info()).result["model"], listening)


def test_nothing_of_a_training_listens_beyond_this_machine(unbroken: Unbroken) -> None:
    assert unbroken.listened_at
    assert unbroken.listened_at <= {"127.0.0.1", "::1"}


def kill_a_rank(step: subprocess.Popen[str]) -> None:
    processes_below(step.pid, RANK_MODULE)[-1].kill()


def kill_torchrun(step: subprocess.Popen[str]) -> None:
    processes_below(step.pid, AGENT_MODULE)[0].kill()


ATTACKS = (subprocess.Popen.kill, kill_a_rank, kill_torchrun)
"""One after the other, each on a try of its own."""


@dataclass(frozen=True)
class Killed:
    """A try that was attacked after it had written a checkpoint."""

    status: int
    output: str
    saved_step: int
    """Of the newest checkpoint just before."""

    survivors: list[psutil.Process]
    has_published: bool


def killed(case: TrainingCase, try_number: int, attack: Callable[[subprocess.Popen[str]], None]) -> Killed:
    """Start a try, and attack it when it has trained on."""
    before = newest_checkpoint(case)
    with case.started(case.info(try_number=try_number)) as step:
        wait_for(lambda: newest_checkpoint(case) > before, "a new checkpoint")
        family, saved = family_of(step), newest_checkpoint(case)
        assert len(processes_below(step.pid, RANK_MODULE)) == 2
        attack(step)
        _, survivors = psutil.wait_procs(family, timeout=GONE_SECONDS)
        output, _ = step.communicate(timeout=GONE_SECONDS)
    return Killed(step.returncode, output, saved, survivors, bool(case.store.list("artifacts/model")))


@dataclass(frozen=True)
class Story:
    """Tries that were killed, each in another way, and the last one, which nobody disturbed."""

    tries: list[Killed]
    damaged_step: int
    """Of the newest checkpoint before the last try: one of its bits was turned."""

    step_before: int
    """Of the checkpoint before that."""

    last: Receipt
    last_output: str

    def resumed_step(self, number: int) -> int:
        """Return the step after which the try that follows try `number` went on."""
        output = self.tries[number + 1].output if number + 1 < len(self.tries) else self.last_output
        found = re.search(rf"going on after step (\d+) of {MAX_STEPS}", output)
        assert found, output
        return int(found[1])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Kill one try after the other, damage the newest checkpoint, and let the last try end."""
    case = long_case(tmp_path_factory.mktemp("story"))
    tries = [killed(case, number, attack) for number, attack in enumerate(ATTACKS, start=1)]
    step_before, damaged_step = case.checkpoint_steps()[-2:]
    turn_a_bit(case, f"step-{damaged_step:08d}/shard-00001.safetensors")
    return Story(tries, damaged_step, step_before, *finished(case, len(ATTACKS) + 1))


def turn_a_bit(case: TrainingCase, file: str) -> None:
    path = next(path for path in case.store.list("checkpoints") if path.endswith(file))
    data = bytearray(case.store.read(path) or b"")
    data[-1] ^= 1
    case.store.put(path, bytes(data))


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        pytest.param(0, -signal.SIGKILL, "", id="kill-9-of-the-step"),
        pytest.param(1, ExitCode.RETRY, "was ended by SIGKILL", id="kill-9-of-a-rank"),
        pytest.param(2, ExitCode.RETRY, "torchrun ended", id="kill-9-of-torchrun"),
    ],
)
def test_a_kill_leaves_no_process_and_publishes_nothing(number: int, status: int, message: str, story: Story) -> None:
    found = story.tries[number]
    assert found.survivors == []
    assert found.status == status, found.output
    assert message in found.output
    assert "Traceback" not in found.output.partition("Last lines of its log")[0]
    assert not found.has_published


@pytest.mark.parametrize("number", [0, 1])
def test_a_retry_goes_on_from_the_newest_checkpoint(number: int, story: Story) -> None:
    assert story.tries[number].saved_step <= story.resumed_step(number) < MAX_STEPS


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(story: Story) -> None:
    assert story.damaged_step >= story.tries[-1].saved_step
    damage = f"step-{story.damaged_step:08d}: shard-00001.safetensors differs from its manifest"
    assert f"{damage}; going back to the checkpoint" in story.last_output
    assert story.resumed_step(len(ATTACKS) - 1) == story.last.result["resumed_from_step"] == story.step_before


def test_a_training_that_was_killed_and_damaged_ends_with_the_same_bits(story: Story, unbroken: Unbroken) -> None:
    assert story.last.result["model"] == unbroken.model


@dataclass(frozen=True)
class Stopped:
    """A training that was told to end as soon as it said how far it is, long before its first checkpoint."""

    case: TrainingCase
    status: int
    output: str
    survivors: list[psutil.Process]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Tell a training to end."""
    case = long_case(
        tmp_path_factory.mktemp("stopped"),
        checkpoint_every_steps=MAX_STEPS // 2,
        max_restarts=3,
        watchdog={"factor": 2.0, "min_seconds": 3.0, "start_seconds": 60.0},  # of ranks that have hardly begun
    )
    with case.started(case.info()) as step:
        wait_for(lambda: case.store.read(case.info().progress_uri), "the training says how far it is")
        family = family_of(step)
        step.terminate()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
        _, survivors = psutil.wait_procs(family, timeout=GONE_SECONDS)
    return Stopped(case, step.returncode, output, survivors)


def test_a_training_that_is_told_to_end_saves_its_last_step(stopped: Stopped) -> None:
    assert stopped.survivors == []
    assert stopped.status == ExitCode.RETRY, stopped.output
    told = "error: training: told to end; what was done is saved, and the next try goes on from there"
    assert told in stopped.output
    (saved,) = stopped.case.checkpoint_steps()
    assert 0 < saved < MAX_STEPS // 2
    assert stopped.case.store.read(stopped.case.info().receipt_uri) is None


def test_the_next_try_goes_on_from_there_and_a_rank_that_hangs_is_named_and_replaced_to_the_same_bits(
    stopped: Stopped, unbroken: Unbroken
) -> None:
    case, saved = stopped.case, newest_checkpoint(stopped.case)
    info = case.info(try_number=2)
    with case.started(info) as step:
        wait_for(lambda: newest_checkpoint(case) >= MAX_STEPS // 2, "steps that the watchdog has seen")
        victim = processes_below(step.pid, RANK_MODULE)[-1]
        rank = victim.environ()["RANK"]
        victim.suspend()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.DONE, output
    assert f"going on after step {saved} of {MAX_STEPS}" in output
    assert re.search(rf"rank {rank} hangs: nothing moved for \d+ s while \w+ after step \d+", output), output
    assert "its process is stopped, by a signal or a debugger" in output
    assert f"the ranks were started again: rank {rank} was ended by SIGKILL" in output
    receipt = case.receipt(info)
    assert receipt.result["resumed_from_step"] == MAX_STEPS // 2
    assert receipt.result["model"] == unbroken.model


def forget_the_result(case: TrainingCase, receipt: Receipt) -> None:
    """Damage the published model, so that the step must make it again."""
    case.store.delete(f"artifacts/model/{receipt.result['model']['digest']}/manifest.json")


@pytest.mark.slow
def test_three_ranks_add_in_the_same_order_after_a_resumption(tmp_path: Path) -> None:
    case = make_case(tmp_path, ranks=3)
    receipt, _ = finished(case)
    assert case.checkpoint_steps() == [8, 12]
    forget_the_result(case, receipt)
    for path in case.store.list("checkpoints"):
        if "step-00000012" in path:
            case.store.delete(path)
    again, _ = finished(case, try_number=2)
    assert (again.result["resumed_from_step"], again.result["model"]) == (8, receipt.result["model"])


def test_a_loss_that_is_no_number_publishes_nothing(tmp_path: Path) -> None:
    case = make_case(tmp_path, ranks=2, weight_decay=1e38, learning_rate=1.0)
    status, output = case.run(case.info())
    assert status == ExitCode.REFUSED
    assert re.search(r"error: training: (loss|gradient norm) is (nan|inf) at step \d+; lower", output)
    assert "nothing was published" in output
    assert "Traceback" not in output
    assert case.store.list("artifacts/model") == []
    assert case.checkpoint_steps() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 400 kB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([UNMOUNT, folder], check=True)


def test_a_disk_that_fills_up_while_checkpointing_is_a_plain_error_and_the_retry_goes_on(
    tmp_path: Path, small_disk: Path
) -> None:
    case = make_case(tmp_path, store_url=f"file://{small_disk}/store", ranks=2, keep_checkpoints=9, max_steps=36)
    status, output = case.run(case.info())
    assert status == ExitCode.RETRY, output
    assert "No space left on device; free space or move the store (SLIPWAY_STORE), then clear the task" in output
    assert "Traceback" not in output
    assert case.store.list("artifacts/model") == []
    saved = case.checkpoint_steps()
    assert saved

    subprocess.run([MOUNT, "-o", "remount,size=20m", small_disk], check=True)
    receipt, _ = finished(case, try_number=2)
    assert receipt.result["resumed_from_step"] == max(saved)
