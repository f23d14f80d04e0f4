"""Memory that torch is not given: the rank's reason has the numbers and the way out."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import OutOfMemory
from pipelines.spec import TrainingConfig
from pipelines.training.supervision.out_of_memory import explain_refusal

CONFIG = TrainingConfig(batch_size=16, ranks=2)


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
