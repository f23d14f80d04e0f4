"""Checkpoints of what is on a GPU."""

from __future__ import annotations

import pytest
import torch

from pipelines.store import Store
from pipelines.training.strategies.single import SingleRank
from tests.checkpoint_case import Case


@pytest.mark.gpu(1)
def test_a_training_on_a_gpu_is_staged_in_pinned_memory_and_goes_on_to_the_same_bits(store: Store) -> None:
    strategy = SingleRank(torch.device("cuda", 0))
    case = Case(store, strategy)
    case.step()
    expected = case.everything()
    case.checkpointer.save(1, progress={}, metrics=b"")
    case.step()  # what is written is as it was before
    case.checkpointer.wait()
    assert all(slot.is_pinned() for slot in case.checkpointer._shard._slots)
    again = Case(store, strategy, seed=2)
    assert again.checkpointer.resume().step == 1
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.everything().items())
    assert again.net.first.weight.device.type == "cuda"
