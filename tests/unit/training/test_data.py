"""Which tokens each rank learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import BadInput
from pipelines.formats.shards import EncodedDocument, TokenShards, write_shards
from pipelines.training.data import BatchOrder, WindowedTokens


def step_windows(order: BatchOrder, step: int, world_size: int, accumulation_steps: int) -> np.ndarray:
    """Return a step's windows of all ranks, in the order of the global batch."""
    parts = [
        order.windows(step, rank=rank, world_size=world_size, accumulation_steps=accumulation_steps)
        for rank in range(world_size)
    ]
    return np.stack(parts, axis=1).reshape(-1)


@given(num_windows=st.integers(1, 60), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_window_is_learnt_once_per_epoch(num_windows: int, epochs: int, seed: int) -> None:
    order = BatchOrder(num_windows, batch_size=4, seed=seed)
    num_steps = -(-num_windows * epochs // 4)
    seen = np.concatenate([step_windows(order, step, 1, 1) for step in range(num_steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * num_windows : (epoch + 1) * num_windows]) == list(range(num_windows))


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 1), (2, 1), (1, 4), (2, 3), (12, 1)])
def test_a_step_learns_the_same_windows_however_they_are_shared(world_size: int, accumulation_steps: int) -> None:
    order = BatchOrder(num_windows=50, batch_size=12, seed=3)
    for step in (0, 3, 4, 17):
        assert (
            step_windows(order, step, world_size, accumulation_steps).tolist()
            == step_windows(order, step, 1, 1).tolist()
        )


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = (step_windows(BatchOrder(40, 40, seed=1), epoch, 1, 1).tolist() for epoch in (0, 1))
    other = step_windows(BatchOrder(40, 40, seed=2), 0, 1, 1).tolist()
    assert len({tuple(first), tuple(second), tuple(other), tuple(range(40))}) == 4


def test_windows_are_equally_long_and_share_one_token(tmp_path: Path) -> None:
    documents = [EncodedDocument(id="d", tokens=list(range(1, 22)))]
    write_shards(tmp_path, {"train": documents}, vocabulary_size=30, eos_id=0, shard_tokens=1024)
    tokens = WindowedTokens(TokenShards.open(tmp_path).split("train"), sequence_length=5)
    assert tokens.num_windows == 4
    assert tokens.read([3, 0]).tolist() == [[16, 17, 18, 19, 20, 21], [1, 2, 3, 4, 5, 6]]


def test_too_few_tokens_for_one_window_are_refused_before_the_first_step(tmp_path: Path) -> None:
    documents = [EncodedDocument(id="d", tokens=[1, 2, 3])]
    write_shards(tmp_path, {"train": documents}, vocabulary_size=30, eos_id=0)
    split = TokenShards.open(tmp_path).split("train")
    with pytest.raises(BadInput, match=r"training\.sequence_length 4 needs at least 5 tokens, split train holds 4"):
        WindowedTokens(split, sequence_length=4)
