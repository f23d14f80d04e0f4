"""How a training is started: arguments and environment, nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

AGENT_MODULE = "pipelines.training.agent"
"""Runs torchrun, tied to the process that started it."""

RANK_MODULE = "pipelines.training.rank"
"""What torchrun starts once per rank."""


def agent_command(job_file: Path, *, ranks: int, max_restarts: int, workspace: Path, logs: Path) -> list[str]:
    """Return the command of a training on this machine.

    The rendezvous is a file, so that no port is opened. Each rank writes to files of its own below `logs`, for lines of
    several ranks in one stream interleave.
    """
    return [
        sys.executable, "-m", AGENT_MODULE,
        "--nnodes", "1",
        "--nproc-per-node", str(ranks),
        "--max-restarts", str(max_restarts),
        "--rdzv-id", "training",
        "--rdzv-backend", "c10d",
        "--rdzv-endpoint", str(workspace / "rendezvous"),
        "--rdzv-conf", "store_type=file",
        "--local-addr", "127.0.0.1",
        "--log-dir", str(logs),
        "--redirects", "3",
        "--module", RANK_MODULE,
        str(job_file),
    ]  # fmt: skip


def rank_environment(base: Mapping[str, str], *, ranks: int, num_cores: int) -> dict[str, str]:
    """Return the environment of torchrun and its ranks.

    The number of threads is fixed, for it decides in which order floating-point sums are taken: equal inputs then give
    equal weights. Values already in `base` win.
    """
    return {
        "OMP_NUM_THREADS": str(threads_per_rank(num_cores, ranks)),
        "GLOO_SOCKET_IFNAME": "lo",  # all ranks are on this machine, and nothing listens on another interface
        **base,
        # With the shared store, ranks cannot be restarted after one was killed (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def num_cores(environment: Mapping[str, str]) -> int:
    """Return how many cores a training may use: those that its pod asked for, else all of this process."""
    return int(environment.get("SLIPWAY_CORES") or len(os.sched_getaffinity(0)))


def threads_per_rank(num_cores: int, ranks: int) -> int:
    """Return how many threads each rank computes with, so that together they fill the machine once."""
    return max(1, num_cores // ranks)
