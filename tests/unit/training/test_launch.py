"""Arguments and environment of a training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import BadInput
from pipelines.keys import import_closure
from pipelines.training.launch import (
    RANK_MODULE,
    agent_command,
    interface_of,
    num_cores,
    rank_environment,
    threads_per_rank,
)
from pipelines.training.nodes import Place

ALONE = Place()
SECOND = Place(num_nodes=2, node_rank=1, address="10.0.0.6", endpoint="10.0.0.5:29400")


def command_at(place: Place) -> list[str]:
    """Return the command of a training of two ranks at a place."""
    folders = {"workspace": Path("/w"), "logs": Path("/w/logs")}
    return agent_command(Path("/w/job.json"), ranks=2, max_restarts=3, place=place, join_seconds=600.0, **folders)


def options_of(command: list[str]) -> dict[str, str]:
    return dict(zip(command[3:-1:2], command[4:-1:2], strict=True))


def test_the_command_names_ranks_restarts_and_a_rendezvous_without_a_port() -> None:
    command = command_at(ALONE)
    assert command[0] == sys.executable
    assert command[1:3] == ["-m", "pipelines.training.agent"]
    assert options_of(command) == {
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


def test_a_machine_among_several_meets_the_others_at_the_first_one() -> None:
    alone, second = options_of(command_at(ALONE)), options_of(command_at(SECOND))
    assert {option: value for option, value in second.items() if alone[option] != value} == {
        "--nnodes": "2",
        "--nproc-per-node": "1",
        "--rdzv-backend": "indexed",
        "--rdzv-endpoint": "10.0.0.5:29400",
        "--rdzv-conf": "is_host=0,node_rank=1,join_timeout=600",
        "--local-addr": "10.0.0.6",
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.0.7"])
def test_ranks_listen_on_the_interface_that_has_the_machines_address(address: str) -> None:
    here = Place(address=address)
    environment = rank_environment({}, ranks=1, num_cores=1, place=here)
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BadInput, match=r"SLIPWAY_NODE_ADDRESS=203\.0\.113\.9: no network interface"):
        interface_of("203.0.113.9")


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
    environment = rank_environment({}, ranks=ranks, num_cores=num_cores, place=ALONE)
    assert environment["OMP_NUM_THREADS"] == str(threads)


def test_a_pod_computes_with_the_cores_that_it_asked_for() -> None:
    assert num_cores({"SLIPWAY_CORES": "3"}) == 3
    assert num_cores({}) >= 1


def test_a_number_of_threads_that_was_chosen_is_kept() -> None:
    environment = rank_environment({"OMP_NUM_THREADS": "3"}, ranks=2, num_cores=64, place=ALONE)
    assert environment["OMP_NUM_THREADS"] == "3"


def test_ranks_can_be_restarted_whatever_the_environment_says() -> None:
    inherited = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0", "HOME": "/h"}
    environment = rank_environment(inherited, ranks=2, num_cores=2, place=ALONE)
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
