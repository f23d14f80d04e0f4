"""How a training is started: arguments and environment, nothing else."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipelines.errors import BadInput
from pipelines.training.nodes import ADDRESS, Place

if TYPE_CHECKING:
    from psutil._ntuples import snicaddr

AGENT_MODULE = "pipelines.training.agent"
"""Runs torchrun, tied to the process that started it."""

RANK_MODULE = "pipelines.training.rank"
"""What torchrun starts once per rank."""


def agent_command(
    job_file: Path, *, ranks: int, max_restarts: int, place: Place, join_seconds: float, workspace: Path, logs: Path
) -> list[str]:
    """Return the command of torchrun on one machine.

    Each rank writes to files of its own below `logs`, for lines of several ranks in one stream interleave.

    Args:
        job_file: what every rank reads.
        ranks: of the whole training.
        max_restarts: how often torchrun starts failed ranks again.
        place: this machine among those of the training.
        join_seconds: how long the machines wait for each other.
        workspace: folder of this try on this machine.
        logs: folder of the ranks' output.
    """
    return [
        sys.executable, "-m", AGENT_MODULE,
        "--nnodes", str(place.num_nodes),
        "--nproc-per-node", str(place.local_ranks(ranks)),
        "--max-restarts", str(max_restarts),
        "--rdzv-id", "training",
        *(_at_a_file(workspace) if place.num_nodes == 1 else _at_the_first_node(place, join_seconds)),
        "--local-addr", place.address,
        "--log-dir", str(logs),
        "--redirects", "3",
        "--module", RANK_MODULE,
        str(job_file),
    ]  # fmt: skip


def _at_a_file(workspace: Path) -> list[str]:
    """Let the ranks of one machine meet without a port."""
    return [
        "--rdzv-backend", "c10d",
        "--rdzv-endpoint", str(workspace / "rendezvous"),
        "--rdzv-conf", "store_type=file",
    ]  # fmt: skip


def _at_the_first_node(place: Place, join_seconds: float) -> list[str]:
    is_host = int(place.node_rank == 0)
    return [
        "--rdzv-backend", "indexed",
        "--rdzv-endpoint", place.endpoint,
        "--rdzv-conf", f"is_host={is_host},node_rank={place.node_rank},join_timeout={join_seconds:.0f}",
    ]  # fmt: skip


def rank_environment(base: Mapping[str, str], *, ranks: int, num_cores: int, place: Place) -> dict[str, str]:
    """Return the environment of torchrun and its ranks.

    The number of threads is fixed, for it decides in which order floating-point sums are taken: equal inputs then give
    equal weights. Values already in `base` win.
    """
    interface = interface_of(place.address)  # nothing listens on another one
    return {
        "OMP_NUM_THREADS": str(threads_per_rank(num_cores, place.local_ranks(ranks))),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": f"={interface}",  # that one, not all whose names begin so
        **base,
        # With the shared store, ranks cannot be restarted after one was killed (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def interface_of(address: str) -> str:
    """Return the name of the network interface to which an address of this machine belongs.

    Raises:
        BadInput: when it belongs to none.
    """
    for name, rows in psutil.net_if_addrs().items():
        if any(ip_address(address) in network for network in _networks(rows)):
            return name
    raise BadInput(f"{ADDRESS}={address}: no network interface of this machine has this address")


def _networks(rows: Iterable[snicaddr]) -> Iterator[IPv4Network | IPv6Network]:
    for row in rows:
        if row.family in {socket.AF_INET, socket.AF_INET6} and row.netmask:
            length = int(ip_address(row.netmask)).bit_count()
            yield ip_network(f"{row.address.partition('%')[0]}/{length}", strict=False)


def num_cores(environment: Mapping[str, str]) -> int:
    """Return how many cores a training may use: those that its pod asked for, else all of this process."""
    return int(environment.get("SLIPWAY_CORES") or len(os.sched_getaffinity(0)))


def threads_per_rank(num_cores: int, ranks: int) -> int:
    """Return how many threads each rank computes with, so that together they fill the machine once."""
    return max(1, num_cores // ranks)
