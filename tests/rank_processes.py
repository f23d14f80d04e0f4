"""Ranks as processes without torchrun: forked from one that has imported the training, which starts once for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Set
from multiprocessing import connection, get_context

DEADLINE_SECONDS = 400.0
"""How long no rank may end."""

_PRELOADED = ["pipelines.training.loop", "pipelines.training.strategies", "transformers.models.llama.modeling_llama"]


def run_ranks(count: int, be_rank: Callable[..., None], *arguments: object, killed: Set[int] = frozenset()) -> None:
    """Call `be_rank(rank, *arguments)` in a process for each rank, and wait until all have ended.

    Args:
        count: ranks.
        be_rank: function of a module, which the processes can import.
        arguments: for all ranks.
        killed: ranks that end by SIGKILL; all others must end well.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # the same list everywhere: the first caller's holds for the session
    processes = [context.Process(target=_start, args=(rank, be_rank, arguments), daemon=True) for rank in range(count)]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in connection.wait(list(running), DEADLINE_SECONDS) or list(running):
            ended = running.pop(sentinel)
            if ended.exitcode not in (0, -signal.SIGKILL):
                for other in running.values():  # which wait for it
                    other.kill()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL * (rank in killed) for rank in range(count)]


def _start(rank: int, be_rank: Callable[..., None], arguments: tuple[object, ...]) -> None:
    import torch

    from pipelines.training import machine

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    machine.matmul_rate = lambda *_: 1e9  # as long as a short training, and nothing that ranks decide by
    be_rank(rank, *arguments)
