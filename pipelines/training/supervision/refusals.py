"""Which memory an error says was refused: torch's allocators, CUDA and its libraries each say it in words of their own.

The words are those of torch (`CUDACachingAllocator.cpp`, `CUDAException.cpp`, `ATen/cuda/Exceptions.h`), of cuDNN
8 and 9, and of NCCL 2 (`alloc.h`, `checks.h`), whose last warning torch adds to its error.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from enum import StrEnum


class Memory(StrEnum):
    """What ran out."""

    DEVICE = "GPU memory"
    PINNED = "pinned host memory"
    HOST = "host memory"


@dataclass(frozen=True)
class Refusal:
    """Memory that was not given."""

    memory: Memory
    said: str
    """The line that says so."""

    size_bytes: int | None = None
    """How much was asked for; None where that is not said in bytes."""


_SAYINGS = (
    (r"you tried to allocate (\d+) bytes", Memory.HOST),
    (r"CUDA out of memory|would exceed allowed memory", Memory.DEVICE),
    (r"CUDA driver error: out of memory", Memory.DEVICE),
    (r"CU[A-Z]+_STATUS_ALLOC_FAILED", Memory.DEVICE),
    (r"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", Memory.DEVICE),
    (r"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", Memory.HOST),
    (r"Failed to CUDA host alloc (\d+) bytes", Memory.PINNED),
    (r"Failed to CUDA [mc]alloc(?: async)? (\d+) bytes", Memory.DEVICE),
    (r"Failed to malloc (\d+) bytes", Memory.HOST),
)

_EITHER = re.compile(r"CUDA error: out of memory|Cuda failure (?:2 )?'out of memory'")
"""What CUDA, alone or under NCCL, says of both: pinned host memory, and what it takes of a GPU beside torch, as for a
context, a kernel or a buffer of NCCL."""

_TOO_MUCH_TO_PIN = "CUDA error: invalid argument"
"""What it says of pinned host memory too, where a driver pins only so much at once; and of much else."""

_LARGEST_OF_CUDA = 2**30
"""Free bytes of a GPU with which neither of them is refused anything there."""


def find_refusal(error: BaseException, device_free_bytes: int | None) -> Refusal | None:
    """Return what an error says was refused, or None when it is of another kind.

    Args:
        error: any.
        device_free_bytes: of this rank's GPU; None where that is not known.
    """
    text = str(error)
    for words, memory in _SAYINGS:
        if found := re.search(words, text):
            return Refusal(memory, _line_of(found), int(found[1]) if found.re.groups else None)
    if found := _EITHER.search(text):
        is_roomy = device_free_bytes is not None and device_free_bytes > _LARGEST_OF_CUDA
        return Refusal(Memory.PINNED if is_roomy or _is_pinning(error) else Memory.DEVICE, _line_of(found))
    if _TOO_MUCH_TO_PIN in text and _is_pinning(error):
        return Refusal(Memory.PINNED, _TOO_MUCH_TO_PIN)
    if isinstance(error, MemoryError):
        return Refusal(Memory.HOST, _first_line(error))
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which is not loaded for its name alone
        return Refusal(Memory.DEVICE, _first_line(error))
    return None


def _is_pinning(error: BaseException) -> bool:
    """Return whether the line of a program that was refused asks for pinned memory."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "pin_memory" in (frames[-1].line or "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _line_of(found: re.Match[str]) -> str:
    """Return the line in which something was found, after the first line where that is another."""
    lines = found.string.strip().splitlines()
    line = next(line for line in lines if found[0] in line)
    return line if line == lines[0] else f"{lines[0]}: {line}"
