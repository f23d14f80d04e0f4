"""A training that is killed, starved of disk, damaged or given numbers that explode."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

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


def long_case(folder: Path) -> TrainingCase:
    """Lay out a training of two ranks that lasts a few seconds and writes many checkpoints."""
    return make_case(folder, ranks=2, max_steps=MAX_STEPS, checkpoint_every_steps=CHECKPOINT_EVERY)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the weights of a training that nothing disturbed."""
    case = long_case(tmp_path_factory.mktemp("unbroken"))
    status, output = case.run(case.info())
    assert status == ExitCode.DONE, output
    return case.weights(case.receipt(case.info()))


def kill_a_rank(step: subprocess.Popen[str]) -> None:
    processes_below(step.pid, RANK_MODULE)[-1].kill()


def kill_torchrun(step: subprocess.Popen[str]) -> None:
    processes_below(step.pid, AGENT_MODULE)[0].kill()


VICTIMS = [
    pytest.param(kill_a_rank, ExitCode.RETRY, "was ended by SIGKILL", id="kill-9-of-a-rank"),
    pytest.param(kill_torchrun, ExitCode.RETRY, "torchrun ended", id="kill-9-of-torchrun"),
    pytest.param(subprocess.Popen.kill, -signal.SIGKILL, "", id="kill-9-of-the-step"),
]


@pytest.mark.parametrize(("attack", "status", "message"), VICTIMS)
def test_a_kill_leaves_no_process_and_the_retry_ends_with_the_same_bits(
    attack: Callable[[subprocess.Popen[str]], None], status: int, message: str, tmp_path: Path, unbroken: bytes
) -> None:
    case = long_case(tmp_path)
    with case.started(case.info(try_number=1)) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        family = psutil.Process(step.pid).children(recursive=True)
        assert len(processes_below(step.pid, RANK_MODULE)) == 2
        saved = max(case.checkpoint_steps())
        attack(step)
        _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
        assert alive == []
        output, _ = step.communicate(timeout=GONE_SECONDS)
    assert step.returncode == status, output
    assert message in output
    assert "Traceback" not in output.partition("Last lines of its log")[0]
    assert case.store.list("artifacts/model") == []

    status_of_retry, output = case.run(case.info(try_number=2))
    assert status_of_retry == ExitCode.DONE, output
    receipt = case.receipt(case.info(try_number=2))
    assert saved <= receipt.result["resumed_from_step"] < MAX_STEPS
    assert f"going on after step {receipt.result['resumed_from_step']} of {MAX_STEPS}" in output
    assert case.weights(receipt) == unbroken


def test_a_training_that_is_told_to_end_saves_its_last_step_and_goes_on_to_the_same_bits(
    tmp_path: Path, unbroken: bytes
) -> None:
    case = make_case(tmp_path, ranks=2, max_steps=MAX_STEPS, checkpoint_every_steps=MAX_STEPS)
    with case.started(case.info()) as step:
        wait_for(lambda: case.store.read(case.info().progress_uri), "the training says how far it is")
        family = psutil.Process(step.pid).children(recursive=True)
        step.terminate()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
        assert psutil.wait_procs(family, timeout=GONE_SECONDS)[1] == []
    assert step.returncode == ExitCode.RETRY, output
    assert "error: training: told to end; what was done is saved, and the next try goes on from there" in output
    (saved,) = case.checkpoint_steps()
    assert 0 < saved < MAX_STEPS
    assert case.store.read(case.info().receipt_uri) is None

    status, output = case.run(case.info(try_number=2))
    assert status == ExitCode.DONE, output
    receipt = case.receipt(case.info(try_number=2))
    assert receipt.result["resumed_from_step"] == saved
    assert case.weights(receipt) == unbroken


def test_a_rank_that_hangs_is_named_and_replaced_and_the_training_ends_with_the_same_bits(
    tmp_path: Path, unbroken: bytes
) -> None:
    case = make_case(
        tmp_path,
        ranks=2,
        max_steps=MAX_STEPS,
        checkpoint_every_steps=CHECKPOINT_EVERY,
        max_restarts=3,
        watchdog={"factor": 2.0, "min_seconds": 3.0, "start_seconds": 60.0},  # of ranks that have hardly begun
    )
    with case.started(case.info()) as step:
        wait_for(lambda: max(case.checkpoint_steps(), default=0) >= MAX_STEPS // 2, "steps that the watchdog has seen")
        victim = processes_below(step.pid, RANK_MODULE)[-1]
        rank = victim.environ()["RANK"]
        victim.suspend()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.DONE, output
    assert re.search(rf"rank {rank} hangs: nothing moved for \d+ s while \w+ after step \d+", output), output
    assert "its process is stopped, by a signal or a debugger" in output
    assert f"the ranks were started again: rank {rank} was ended by SIGKILL" in output
    receipt = case.receipt(case.info())
    assert receipt.result["resumed_from_step"] > 0
    assert case.weights(receipt) == unbroken


def finished(case: TrainingCase) -> Receipt:
    status, output = case.run(case.info())
    assert status == ExitCode.DONE, output
    return case.receipt(case.info())


def forget_the_result(case: TrainingCase, receipt: Receipt) -> None:
    """Damage the published model, so that the step must make it again."""
    case.store.delete(f"artifacts/model/{receipt.result['model']['digest']}/manifest.json")


def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_bits(tmp_path: Path) -> None:
    case = make_case(tmp_path, ranks=2)
    receipt = finished(case)
    assert case.checkpoint_steps() == [8, 12]
    forget_the_result(case, receipt)
    newest = next(
        path for path in case.store.list("checkpoints") if path.endswith("step-00000012/shard-00001.safetensors")
    )
    data = bytearray(case.store.read(newest) or b"")
    data[-1] ^= 1
    case.store.put(newest, bytes(data))

    status, output = case.run(case.info(try_number=2))
    assert status == ExitCode.DONE, output
    again = case.receipt(case.info(try_number=2))
    assert "step-00000012: shard-00001.safetensors differs from its manifest; going back to the checkpoint" in output
    assert again.result["resumed_from_step"] == 8
    assert again.result["model"] == receipt.result["model"]


@pytest.mark.slow
def test_three_ranks_add_in_the_same_order_after_a_resumption(tmp_path: Path) -> None:
    case = make_case(tmp_path, ranks=3)
    receipt = finished(case)
    forget_the_result(case, receipt)
    for path in case.store.list("checkpoints"):
        if "step-00000012" in path:
            case.store.delete(path)
    status, output = case.run(case.info(try_number=2))
    assert status == ExitCode.DONE, output
    again = case.receipt(case.info(try_number=2))
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
    status, output = case.run(case.info(try_number=2))
    assert status == ExitCode.DONE, output
    assert case.receipt(case.info(try_number=2)).result["resumed_from_step"] == max(saved)


def test_nothing_of_a_training_listens_beyond_this_machine(tmp_path: Path) -> None:
    case = long_case(tmp_path)
    with case.started(case.info()) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        family = psutil.Process(step.pid).children(recursive=True)
        connections = [connection for process in family for connection in process.net_connections("inet")]
    listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert listening <= {"127.0.0.1", "::1"}
