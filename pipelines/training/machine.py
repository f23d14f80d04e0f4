"""What a rank computes with, and how much: measured by the rank itself once it has trained."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from pathlib import Path

import torch
from torch import nn

from pipelines.training.determinism import RankRecord
from pipelines.training.flops import flops_per_token, matmul_rate
from pipelines.training.job import TrainingJob
from pipelines.training.precision import compute_dtype, deterministic
from pipelines.training.strategies import Strategy

_LIBRARIES = ("numpy", "safetensors", "torch", "transformers")
"""Distributions whose versions change the result of a training."""

_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip
"""Variables that decide how the libraries below torch compute, and what they do with memory."""


def leave_record(job: TrainingJob, strategy: Strategy, model: nn.Module) -> None:
    """Write what this rank computed with, where the step finds it."""
    dtype = compute_dtype(job.training.precision, strategy.device)
    parameters = list(model.parameters())
    record = RankRecord(
        versions=_versions(),
        hardware=_hardware(strategy.device),
        flags=_flags(strategy.device, dtype),
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trained_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops_per_token=flops_per_token(model, job.training.sequence_length),
        peak_memory_bytes=_peak_memory_bytes(strategy.device),
        matmul_rate=matmul_rate(strategy.device, dtype),
    )
    job.records_folder.mkdir(exist_ok=True)
    file = job.records_folder / f"rank-{strategy.rank:05d}.json"
    file.write_text(record.model_dump_json(), encoding="utf-8")


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    versions["python"] = platform.python_version()
    if torch.cuda.is_available():
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(torch.backends.cudnn.version())
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return versions


def _hardware(device: torch.device) -> dict[str, str]:
    hardware = {"processor": _processor(), "instructions": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        hardware["device"] = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, sm_{found.major}{found.minor}"
    return hardware


def _flags(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    with deterministic(device):
        flags: dict[str, object] = {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "precision": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {name: str(value) for name, value in flags.items()} | variables


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
