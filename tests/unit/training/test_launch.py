"""Arguments and environment of a training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.keys import import_closure
from pipelines.training.launch import RANK_MODULE, agent_command, num_cores, rank_environment, threads_per_rank


def test_the_command_names_ranks_restarts_and_a_rendezvous_without_a_port() -> None:
    command = agent_command(Path("/w/job.json"), ranks=2, max_restarts=3, workspace=Path("/w"), logs=Path("/w/logs"))
    assert command[0] == sys.executable
    assert command[1:3] == ["-m", "pipelines.training.agent"]
    options = dict(zip(command[3:-1:2], command[4:-1:2], strict=True))
    assert options == {
        "--nnodes": "1",
        "--nproc-per-node": "2",
        "--max-restarts": "3",
        "--rdzv-id": "training",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "/w/rendezvous",
        "--rdzv-conf": "store_type=file",
        "--local-addr": "127.0.0.1",
        "--log-dir": "/w/logs",
        "--redirects": "3",
        "--module": "pipelines.training.rank",
    }
    assert command[-1] == "/w/job.json"


@pytest.mark.parametrize(
    ("num_cores", "ranks", "threads"),
    [
        pytest.param(2, 2, 1, id="one-each"),
        pytest.param(16, 2, 8, id="cores-are-shared"),
        pytest.param(2, 8, 1, id="more-ranks-than-cores"),
        pytest.param(7, 2, 3, id="never-more-threads-than-cores"),
    ],
)
def test_ranks_fill_the_machine_once(num_cores: int, ranks: int, threads: int) -> None:
    assert threads_per_rank(num_cores, ranks) == threads
    assert rank_environment({}, ranks=ranks, num_cores=num_cores)["OMP_NUM_THREADS"] == str(threads)


def test_a_pod_computes_with_the_cores_that_it_asked_for() -> None:
    assert num_cores({"SLIPWAY_CORES": "3"}) == 3
    assert num_cores({}) >= 1


def test_a_number_of_threads_that_was_chosen_is_kept() -> None:
    assert rank_environment({"OMP_NUM_THREADS": "3"}, ranks=2, num_cores=64)["OMP_NUM_THREADS"] == "3"


def test_ranks_can_be_restarted_whatever_the_environment_says() -> None:
    inherited = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0", "HOME": "/h"}
    environment = rank_environment(inherited, ranks=2, num_cores=2)
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert environment["HOME"] == "/h"


def test_the_loop_is_part_of_the_steps_key() -> None:
    closure = import_closure("pipelines.steps.train")
    assert RANK_MODULE in closure
    assert {"pipelines.training.agent", "pipelines.training.loop", "pipelines.training.strategies.ddp"} <= closure


def test_the_step_does_not_import_torch() -> None:
    check = (
        "import sys, pipelines.steps.train; sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
