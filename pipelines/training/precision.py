"""How a training computes: in which number format, and always in the same order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch

_NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Processor flags that promise bfloat16 arithmetic; without them it is emulated, and slower than float32."""


def compute_dtype(precision: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> torch.dtype:
    """Return the type of matrix products; weights and optimizer state are always float32."""
    if precision == "fp32":
        return torch.float32
    if precision == "fp16":
        return torch.float16
    if precision == "bf16" or _computes_bf16(device):
        return torch.bfloat16
    return torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Return what matrix products are computed in; made once, it can be entered again and again."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype)
    return context


def gradient_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """Return what keeps small gradients from vanishing in float16; None for other types, in which they do not.

    Micikevicius et al., "Mixed Precision Training", 2018.
    """
    return torch.amp.GradScaler(device.type) if dtype is torch.float16 else None


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let equal inputs give equal bits on a CPU; an operation that cannot promise it is an error."""
    if device.type != "cpu":
        yield
        return
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over all memory
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not _NATIVE_BF16.isdisjoint(processor_flags(Path("/proc/cpuinfo")))


def processor_flags(cpuinfo: Path) -> frozenset[str]:
    """Return what the first processor can do (`flags` on x86, `Features` on Arm); empty where that is not told."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()
