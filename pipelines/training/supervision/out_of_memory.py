"""Tell that memory ran out, with the numbers, and what would fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import OutOfMemory
from pipelines.spec import TrainingConfig

GIB = 2**30

_CPU_REFUSAL = re.compile(r"you tried to allocate (\d+) bytes")
"""How torch's allocator on a CPU says that it was given no memory."""


@dataclass(frozen=True)
class MemoryGroup:
    """The control group of this process: its memory limit, and how often the kernel killed for it.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory and cgroup-v1/memory.html.
    """

    folder: Path
    limit_name: str
    events_name: str

    @classmethod
    def of_this_process(
        cls, cgroups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
    ) -> MemoryGroup:
        """Return the group that the kernel names, or, where that is not mounted as in a container, the root's."""
        for line in cgroups.read_text(encoding="utf-8").splitlines() if cgroups.is_file() else []:
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return cls._first(root / "memory", path, "memory.limit_in_bytes", "memory.oom_control")
        unified = next((line.split(":", 2)[2] for line in _lines(cgroups) if line.startswith("0::")), "/")
        return cls._first(root, unified, "memory.max", "memory.events")

    @classmethod
    def _first(cls, root: Path, path: str, limit_name: str, events_name: str) -> MemoryGroup:
        own = root / path.lstrip("/")
        return cls(own if (own / limit_name).is_file() else root, limit_name, events_name)

    def limit_bytes(self) -> int | None:
        """Return the limit, or None where there is none, or none below the machine's memory."""
        text = "".join(_lines(self.folder / self.limit_name)).strip()
        return int(text) if text.isdigit() and int(text) < 2**60 else None

    def num_kills(self) -> int:
        """Return how many processes of this group the kernel has killed for want of memory."""
        counts = (line.split() for line in _lines(self.folder / self.events_name))
        return next((int(count[1]) for count in counts if count[:1] == ["oom_kill"]), 0)


def explain_refusal(error: BaseException, config: TrainingConfig) -> OutOfMemory | None:
    """Return what an error of a rank means when it is a refused allocation, else None."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"training: out of GPU memory ({_device_numbers()}): {_first_line(error)}; {advice(config)}")
    refused = _CPU_REFUSAL.search(str(error))
    if refused:
        return OutOfMemory(f"training: out of memory: {gib(int(refused[1]))} more were refused; {advice(config)}")
    if isinstance(error, MemoryError):
        return OutOfMemory(f"training: out of memory: {_first_line(error)}; {advice(config)}")
    return None


def explain_kill(rank: int, used_bytes: int, limit_bytes: int | None, config: TrainingConfig) -> OutOfMemory:
    """Return the error of a rank that the kernel killed because its control group was out of memory."""
    limit = "" if limit_bytes is None else f" of {gib(limit_bytes)}"
    return OutOfMemory(
        f"training: rank {rank} was killed by the kernel, out of memory: all ranks of this machine used at "
        f"least {gib(used_bytes)}{limit}; {advice(config)}, or give the step more memory"
    )


def advice(config: TrainingConfig) -> str:
    """Return the way out: at most half as many sequences at a time, with the batch as it is or a smaller one."""
    at_a_time = config.batch_size // (config.data_ranks * config.accumulation_steps)
    if at_a_time == 1:
        return f"a rank holds one sequence at a time already: try {', or '.join(_other_ways(config))}"
    fewer = next(size for size in range(at_a_time // 2, 0, -1) if at_a_time % size == 0)
    factor = at_a_time // fewer
    return (
        f"try training.accumulation_steps {config.accumulation_steps * factor}: the same batch, {fewer} instead of "
        f"{at_a_time} sequences at a time; or training.batch_size {config.batch_size // factor}"
    )


def gib(size_bytes: float) -> str:
    """Return a size in words."""
    return f"{size_bytes / GIB:.2f} GiB"


def _other_ways(config: TrainingConfig) -> list[str]:
    ways = [] if config.activation_checkpointing else ["training.activation_checkpointing true"]
    if config.strategy.kind == "ddp":
        ways.append("training.strategy fsdp on more ranks")
    return [*ways, f"training.sequence_length {max(8, config.sequence_length // 2)}", "a smaller architecture"]


def _device_numbers() -> str:
    import torch

    free, total = torch.cuda.mem_get_info()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    return (
        f"{gib(allocated)} held by tensors at most, {gib(reserved)} reserved, {gib(free)} free of {gib(total)}; "
        "the rest is other processes'"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
