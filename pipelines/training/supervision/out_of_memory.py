"""Tell that memory ran out, with the numbers, and what would fit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import OutOfMemory
from pipelines.spec import FsdpConfig, TensorConfig, TrainingConfig
from pipelines.training.supervision.refusals import Memory, Refusal, find_refusal

GIB = 2**30


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
    """Return what an error of a rank means when it is a refused allocation, on its GPU or on the host, else None."""
    device = _device_bytes()
    refusal = find_refusal(error, device[0] if device else None)
    if refusal is None:
        return None
    match refusal.memory:
        case Memory.DEVICE:
            return _explained(refusal, _device_numbers(*device) if device else "", advice(config))
        case Memory.PINNED:
            return _explained(refusal, _pinned_numbers(), host_advice(config))
        case Memory.HOST:
            said = refusal.said if refusal.size_bytes is None else f"{gib(refusal.size_bytes)} more were refused"
            return OutOfMemory(f"training: out of memory: {said}; {host_advice(config) if device else advice(config)}")


def explain_kill(
    rank: int, used_bytes: int, limit_bytes: int | None, config: TrainingConfig, *, on_gpu: bool
) -> OutOfMemory:
    """Return the error of a rank that the kernel killed because its control group was out of memory."""
    limit = "" if limit_bytes is None else f" of {gib(limit_bytes)}"
    way_out = host_advice(config) if on_gpu else f"{advice(config)}, or give the step more memory"
    return OutOfMemory(
        f"training: rank {rank} was killed by the kernel, out of memory: all ranks of this machine used at "
        f"least {gib(used_bytes)}{limit}; {way_out}"
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


def host_advice(config: TrainingConfig) -> str:
    """Return the way out where ranks compute on GPUs and the host's memory is too small: a smaller batch is none."""
    ways = ["more memory for each machine (resources.train.memory)"]
    if config.ranks > 1:
        ways.append("fewer ranks on each (resources.train.nodes)")
    if isinstance(config.strategy, FsdpConfig | TensorConfig) and config.strategy.cpu_offload:
        ways.append("training.strategy.cpu_offload false")
    return f"try {', or '.join(ways)}"


def gib(size_bytes: float) -> str:
    """Return a size in words."""
    return f"{size_bytes / GIB:.2f} GiB"


def _other_ways(config: TrainingConfig) -> list[str]:
    ways = [] if config.activation_checkpointing else ["training.activation_checkpointing true"]
    if config.strategy.kind == "ddp":
        ways.append("training.strategy fsdp on more ranks")
    return [*ways, f"training.sequence_length {max(8, config.sequence_length // 2)}", "a smaller architecture"]


def _explained(refusal: Refusal, numbers: str, way_out: str) -> OutOfMemory:
    told = f" ({numbers})" if numbers else ""
    return OutOfMemory(f"training: out of {refusal.memory}{told}: {refusal.said}; {way_out}")


def _device_bytes() -> tuple[int, int] | None:
    """Return how much of this rank's GPU is free, and how much there is; None without one, or when it does not say."""
    import torch

    with contextlib.suppress(RuntimeError):  # a GPU that is full may have no room for the question
        if torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            return free, total
    return None


def _device_numbers(free: int, total: int) -> str:
    import torch

    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    return (
        f"{gib(allocated)} held by tensors at most, {gib(reserved)} reserved, {gib(free)} free of {gib(total)}; "
        "the rest is other processes'"
    )


def _pinned_numbers() -> str:
    import psutil
    import torch

    pinned = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
    memory, limit = psutil.virtual_memory(), MemoryGroup.of_this_process().limit_bytes()
    limited = f", of which all ranks may take {gib(limit)}" if limit is not None and limit < memory.total else ""
    return (
        f"{gib(pinned)} pinned by this rank, {gib(memory.available)} free of the machine's {gib(memory.total)}{limited}"
    )


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
