"""What the ranks of this machine use: cores, memory, GPUs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from pipelines.training.supervision.heartbeat import DeviceUse, Heartbeat


@dataclass(frozen=True)
class Usage:
    """All ranks of this machine together, since the last measurement."""

    cpu_cores: float
    memory_bytes: int
    """Resident now; what ranks share counts for each."""

    gpu_memory_bytes: int | None = None
    """Held by tensors at most so far, on the fullest GPU; None without GPUs."""

    gpu_memory_total_bytes: int | None = None
    gpu_utilization: float | None = None
    """Mean over GPUs, 0-1; None where the driver does not tell."""


class UsageMeter:
    """Measures the processes that heartbeats name."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._cpu_seconds: dict[int, float] = {}
        self._measured_at = time.monotonic()
        self.peak_memory_bytes = 0
        """Largest that was ever measured."""

    def measure(self, beats: Mapping[int, Heartbeat]) -> Usage:
        """Return what the ranks use; one that has ended uses nothing."""
        now = time.monotonic()
        elapsed, self._measured_at = max(now - self._measured_at, 1e-3), now
        used = [self._measure_one(beat.pid) for beat in beats.values()]
        memory = sum(resident for _, resident in used)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        usage = Usage(cpu_cores=sum(seconds for seconds, _ in used) / elapsed, memory_bytes=memory)
        devices = [beat.device for beat in beats.values() if beat.device]
        return _with_gpus(usage, devices) if devices else usage

    def _measure_one(self, pid: int) -> tuple[float, int]:
        """Return the CPU seconds since the last call, and the resident bytes."""
        try:
            found = self._processes.setdefault(pid, psutil.Process(pid))
            times, resident = found.cpu_times(), found.memory_info().rss
        except psutil.Error:
            self._processes.pop(pid, None)
            return 0.0, 0
        total = times.user + times.system
        before, self._cpu_seconds[pid] = self._cpu_seconds.get(pid, total), total
        return total - before, resident


def _with_gpus(usage: Usage, devices: Sequence[DeviceUse]) -> Usage:
    fullest = max(devices, key=lambda device: device.allocated_bytes / device.total_bytes)
    told = [device.utilization for device in devices if device.utilization is not None]
    return replace(
        usage,
        gpu_memory_bytes=fullest.allocated_bytes,
        gpu_memory_total_bytes=fullest.total_bytes,
        gpu_utilization=sum(told) / len(told) if told else None,
    )
