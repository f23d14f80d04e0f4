"""Which memory was refused, from the words of torch, CUDA, cuBLAS, cuDNN and NCCL."""

from __future__ import annotations

import pytest

from pipelines.training.supervision.refusals import Memory, Refusal, find_refusal

GIB = 2**30

HELP = (
    "\nSearch for `{name}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more "
    "information.\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below "
    "might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)
"""What torch adds to an error of CUDA."""

CUDA = "CUDA error: out of memory" + HELP.format(name="cudaErrorMemoryAllocation")
INVALID = "CUDA error: invalid argument" + HELP.format(name="cudaErrorInvalidValue")

NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.26.2"
)
NCCL_DETAIL = "\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"


@pytest.mark.parametrize(
    ("text", "memory", "size_bytes"),
    [
        pytest.param(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.03 "
            "GiB is free. Of the allocated memory 70.10 GiB is allocated by PyTorch",
            Memory.DEVICE, None, id="torch-on-a-gpu",
        ),
        pytest.param(
            "Allocation on device 0 would exceed allowed memory. (out of memory)",
            Memory.DEVICE, None, id="torch-with-the-allocator-of-cuda",
        ),
        pytest.param("CUDA driver error: out of memory", Memory.DEVICE, None, id="torch-with-expandable-segments"),
        pytest.param(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 1125899906842624 bytes. Error code 12 (Cannot allocate memory)",
            Memory.HOST, 2**50, id="torch-on-the-host",
        ),
        pytest.param(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            Memory.DEVICE, None, id="cublas",
        ),
        pytest.param("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Memory.DEVICE, None, id="cudnn-8"),
        pytest.param(
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", Memory.DEVICE, None, id="cudnn-9"
        ),
        pytest.param(
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", Memory.HOST, None, id="cudnn-9-host"
        ),
        pytest.param(
            f"{NCCL}{NCCL_DETAIL}Failed to CUDA calloc 536870912 bytes", Memory.DEVICE, 512 * 2**20, id="nccl"
        ),
        pytest.param(
            f"{NCCL}{NCCL_DETAIL}Failed to CUDA calloc async 2432 bytes", Memory.DEVICE, 2432, id="nccl-on-a-stream"
        ),
        pytest.param(f"{NCCL}{NCCL_DETAIL}Failed to CUDA malloc 8 bytes", Memory.DEVICE, 8, id="nccl-malloc"),
        pytest.param(f"{NCCL}{NCCL_DETAIL}Cuda failure 2 'out of memory'", Memory.DEVICE, None, id="nccl-says-cuda"),
        pytest.param(f"{NCCL}{NCCL_DETAIL}Cuda failure 'out of memory'", Memory.DEVICE, None, id="nccl-2.18"),
        pytest.param(
            f"{NCCL}{NCCL_DETAIL}Failed to CUDA host alloc 4923392 bytes", Memory.PINNED, 4_923_392, id="nccl-pinned"
        ),
        pytest.param(f"{NCCL}{NCCL_DETAIL}Failed to malloc 64 bytes", Memory.HOST, 64, id="nccl-on-the-host"),
    ],
)  # fmt: skip
def test_each_library_says_it_in_its_own_words(text: str, memory: Memory, size_bytes: int | None) -> None:
    found = find_refusal(RuntimeError(text), None)
    assert found is not None
    assert (found.memory, found.size_bytes) == (memory, size_bytes)


def test_the_line_that_says_it_is_told_after_who_says_it() -> None:
    found = find_refusal(RuntimeError(f"{NCCL}{NCCL_DETAIL}Failed to CUDA calloc 8 bytes"), None)
    assert found is not None
    assert found.said == f"{NCCL}: Failed to CUDA calloc 8 bytes"


def caught(text: str, *, is_pinning: bool) -> RuntimeError:
    """Return an error as a program meets it that pins memory, or does something else."""
    try:
        if is_pinning:
            raise RuntimeError(text)  # as of torch.empty(size, pin_memory=True)
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("text", "is_pinning", "device_free_bytes", "memory"),
    [
        pytest.param(CUDA, True, 0, Memory.PINNED, id="whoever-pins-is-refused-pinned-memory"),
        pytest.param(CUDA, True, None, Memory.PINNED, id="also-when-the-gpu-says-nothing"),
        pytest.param(CUDA, False, 40 * GIB, Memory.PINNED, id="a-gpu-with-room-has-refused-nothing"),
        pytest.param(CUDA, False, 2**20, Memory.DEVICE, id="a-full-gpu-has"),
        pytest.param(CUDA, False, None, Memory.DEVICE, id="a-gpu-too-full-for-the-question"),
        pytest.param("Cuda failure 2 'out of memory'", False, 40 * GIB, Memory.PINNED, id="under-nccl"),
        pytest.param(INVALID, True, 40 * GIB, Memory.PINNED, id="more-than-a-driver-pins-at-once"),
    ],
)
def test_cuda_says_the_same_of_pinned_memory_and_of_its_own_on_the_gpu(
    text: str, is_pinning: bool, device_free_bytes: int | None, memory: Memory
) -> None:
    assert find_refusal(caught(text, is_pinning=is_pinning), device_free_bytes) == Refusal(
        memory, text.splitlines()[0], None
    )


def test_pythons_own_error_has_no_words() -> None:
    assert find_refusal(MemoryError(), None) == Refusal(Memory.HOST, "MemoryError")
    assert find_refusal(MemoryError("std::bad_alloc"), None) == Refusal(Memory.HOST, "std::bad_alloc")


def test_an_allocator_with_other_words_is_known_by_its_error() -> None:
    error = type("OutOfMemoryError", (RuntimeError,), {})("HIP out of memory.\nTried to allocate 2.00 GiB")
    assert find_refusal(error, None) == Refusal(Memory.DEVICE, "HIP out of memory.")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("CUDA error: an illegal memory access was encountered", id="illegal-access"),
        pytest.param("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`", id="cublas"),
        pytest.param("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", id="cudnn"),
        pytest.param(f"{NCCL}{NCCL_DETAIL}Cuda failure 1 'invalid argument'", id="nccl"),
        pytest.param(INVALID, id="an-argument-where-nothing-is-pinned"),
    ],
)
def test_other_errors_are_no_refusals(text: str) -> None:
    assert find_refusal(caught(text, is_pinning=False), 40 * GIB) is None
