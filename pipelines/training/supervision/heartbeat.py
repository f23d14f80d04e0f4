"""What a rank says while it lives: at which step it is, how many exchanges it has joined, what its device holds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from pipelines.spec import Frozen
from pipelines.training.files import replace_text

BEAT_SECONDS = 1.0


class Phase(StrEnum):
    """What a rank is busy with; only while it trains is there a usual time per step."""

    STARTING = "starting"
    TRAINING = "training"
    SAVING = "saving"
    ENDING = "ending"


@dataclass
class LiveState:
    """Where a rank is: the loop writes it, which costs nothing, and the heart reads it."""

    step: int = 0
    """Optimizer steps done."""

    phase: Phase = Phase.STARTING

    def stepped(self, step: int) -> None:
        """Say that a step is done."""
        self.step, self.phase = step, Phase.TRAINING

    @contextlib.contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Be busy with something else than steps."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before


class DeviceUse(Frozen):
    """What a rank's GPU does."""

    allocated_bytes: int
    """Held by tensors, at most so far."""

    total_bytes: int
    utilization: float | None = None
    """Share of the last moment in which the GPU computed, 0-1; None where the driver does not tell."""


class Heartbeat(Frozen):
    """One rank's sign of life."""

    rank: int
    pid: int
    attempt: int
    """How often torchrun has restarted the ranks."""

    step: int
    phase: Phase
    exchanges: int = 0
    """Collective operations that this rank has joined: of ranks that wait for each other, the one with the fewest is
    the one that the others wait for."""

    device: DeviceUse | None = None
    """None on a CPU."""


@contextlib.contextmanager
def beating(state: LiveState, folder: Path) -> Iterator[None]:
    """Write this rank's heartbeat into its file in a folder again and again, from a thread of its own."""
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(state, folder, ended), name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def read_heartbeats(folder: Path) -> dict[int, Heartbeat]:
    """Return the newest heartbeat of each rank of this machine."""
    beats: dict[int, Heartbeat] = {}
    for file in sorted(folder.glob("rank-*.json")):
        with contextlib.suppress(FileNotFoundError, ValidationError):
            beat = Heartbeat.model_validate_json(file.read_bytes())
            beats[beat.rank] = beat
    return beats


def _beat(state: LiveState, folder: Path, ended: threading.Event) -> None:
    file = folder / f"rank-{os.environ['RANK']}.json"
    while True:
        with contextlib.suppress(OSError):  # a full disk is for whoever saves to tell
            replace_text(file, _heartbeat(state).model_dump_json())
        if ended.wait(BEAT_SECONDS):
            return


def _heartbeat(state: LiveState) -> Heartbeat:
    return Heartbeat(
        rank=int(os.environ["RANK"]),
        pid=os.getpid(),
        attempt=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
        step=state.step,
        phase=state.phase,
        exchanges=_exchanges(),
        device=_device_use(),
    )


def _exchanges() -> int:
    """Return how many collective operations all process groups of this rank have counted."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return 0
    groups = list(dist.distributed_c10d._world.pg_map)  # torch has no public list of its groups
    return sum(group._get_sequence_number_for_group() for group in groups)


def _device_use() -> DeviceUse | None:
    import torch

    if not torch.cuda.is_initialized():
        return None
    device = int(os.environ["LOCAL_RANK"])  # which one is current, CUDA remembers for each thread
    return DeviceUse(
        allocated_bytes=torch.cuda.max_memory_allocated(device),
        total_bytes=torch.cuda.get_device_properties(device).total_memory,
        utilization=_device_utilization(device),
    )


def _device_utilization(device: int) -> float | None:
    import torch

    try:
        return float(torch.cuda.utilization(device)) / 100
    except Exception:  # noqa: BLE001 - the driver's library is missing or refuses; a number for people is no reason to fail
        return None
