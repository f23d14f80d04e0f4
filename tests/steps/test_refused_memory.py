"""Memory that torch is not given: the rank's reason has the numbers and the way out."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import OutOfMemory
from pipelines.spec import TrainingConfig
from pipelines.training.supervision.out_of_memory import MemoryGroup, explain_refusal

CONFIG = TrainingConfig(batch_size=16, ranks=2)

GIB = 2**30


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say what it says of a GPU of 80 GiB that is nearly full, and of 6 GiB that are pinned."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (GIB // 2, 80 * GIB))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 60 * GIB)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 70 * GIB)
    monkeypatch.setattr("torch.cuda.host_memory_stats", lambda: {"allocated_bytes.current": 6 * GIB})


def test_a_refused_allocation_is_explained() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8)
    error = explain_refusal(refused.value, CONFIG)
    assert isinstance(error, OutOfMemory)
    assert str(error) == (
        "training: out of memory: 1048576.00 GiB more were refused; try training.accumulation_steps 2: the same batch, "
        "4 instead of 8 sequences at a time; or training.batch_size 8"
    )


def test_pythons_own_error_is_explained() -> None:
    with pytest.raises(MemoryError) as refused:
        bytearray(2**62)
    assert "training: out of memory: MemoryError; try" in str(explain_refusal(refused.value, CONFIG))


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert explain_refusal(other.value, CONFIG) is None


@pytest.mark.usefixtures("full_gpu")
def test_what_cublas_was_refused_is_told_with_the_numbers_of_the_gpu() -> None:
    error = explain_refusal(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), CONFIG)
    assert str(error) == (
        "training: out of GPU memory (60.00 GiB held by tensors at most, 70.00 GiB reserved, 0.50 GiB free of 80.00 "
        "GiB; the rest is other processes'): CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`; try "
        "training.accumulation_steps 2: the same batch, 4 instead of 8 sequences at a time; or training.batch_size 8"
    )


@pytest.mark.usefixtures("full_gpu")
def test_pinned_memory_that_is_refused_is_told_with_the_numbers_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 3 * GIB, "total": 64 * GIB})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(MemoryGroup, "limit_bytes", lambda _: 32 * GIB)

    with pytest.raises(torch.AcceleratorError) as refused:
        raise torch.AcceleratorError("CUDA error: out of memory\nSearch for ...")  # as of empty(pin_memory=True)
    assert str(explain_refusal(refused.value, CONFIG)) == (
        "training: out of pinned host memory (6.00 GiB pinned by this rank, 3.00 GiB free of the machine's 64.00 GiB, "
        "of which all ranks may take 32.00 GiB): CUDA error: out of memory; try more memory for each machine "
        "(resources.train.memory), or fewer ranks on each (resources.train.nodes)"
    )


@pytest.mark.usefixtures("full_gpu")
def test_a_smaller_batch_is_no_way_out_for_a_host_whose_ranks_have_gpus() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8)
    told = str(explain_refusal(refused.value, CONFIG))
    assert "1048576.00 GiB more were refused; try more memory for each machine" in told


def test_a_gpu_too_full_to_be_asked_is_told_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = torch.AcceleratorError("CUDA error: out of memory\nSearch for ...")

    def mem_get_info() -> None:
        raise refusal

    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", mem_get_info)
    told = str(explain_refusal(refusal, CONFIG))
    assert told.startswith("training: out of GPU memory: CUDA error: out of memory; try training.accumulation_steps 2")
