"""Which tokens each rank learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import BadInput
from pipelines.formats.shards import EncodedDocument, TokenShards, write_shards
from pipelines.training.data import NO_TOKEN, BatchOrder, Share, WindowedTokens

BATCH_SIZE = 12
SHARES = [(1, 1), (2, 1), (1, 4), (2, 3), (3, 2), (4, 1), (12, 1)]


def learnt(order: BatchOrder, steps: range, world_size: int = 1, accumulation_steps: int = 1) -> list[int]:
    """Return the windows of some steps in the order of the global batches, put together from all ranks."""
    parts = [order.windows(steps, Share(rank, world_size, accumulation_steps)) for rank in range(world_size)]
    return np.stack(parts, axis=2).ravel().tolist()


@settings(deadline=None)
@given(
    num_windows=st.integers(1, 60),
    seed=st.integers(0, 5),
    lives=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(SHARES)), min_size=1, max_size=6),
)
def test_every_window_is_learnt_once_per_epoch_however_often_the_number_of_ranks_changes(
    num_windows: int, seed: int, lives: Sequence[tuple[int, tuple[int, int]]]
) -> None:
    """A life: how many steps a training takes until it is restarted with other ranks."""
    order = BatchOrder(num_windows, BATCH_SIZE, seed)
    seen: list[int] = []
    step = 0
    for num_steps, (world_size, accumulation_steps) in lives:
        seen += learnt(order, range(step, step + num_steps), world_size, accumulation_steps)
        step += num_steps
    for start in range(0, len(seen), num_windows):
        epoch = seen[start : start + num_windows]
        assert len(set(epoch)) == len(epoch)
        assert len(epoch) < num_windows or sorted(epoch) == list(range(num_windows))


@pytest.mark.parametrize(("world_size", "accumulation_steps"), SHARES)
def test_a_step_learns_the_same_windows_however_they_are_shared_and_read(
    world_size: int, accumulation_steps: int
) -> None:
    order = BatchOrder(num_windows=50, batch_size=BATCH_SIZE, seed=3)
    together = learnt(order, range(3, 18), world_size, accumulation_steps)
    one_by_one = [window for step in range(3, 18) for window in learnt(order, range(step, step + 1))]
    assert together == one_by_one


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = (learnt(BatchOrder(40, 40, seed=1), range(epoch, epoch + 1)) for epoch in (0, 1))
    other = learnt(BatchOrder(40, 40, seed=2), range(1))
    assert len({tuple(first), tuple(second), tuple(other), tuple(range(40))}) == 4


def windowed(folder: Path, lengths: Sequence[int], sequence_length: int, shard_tokens: int = 1024) -> WindowedTokens:
    """Return windows of documents that hold the numbers from 1 on, in shards of some tokens."""
    documents = [EncodedDocument(id=str(number), tokens=range(1, 1 + length)) for number, length in enumerate(lengths)]
    write_shards(folder, {"train": documents}, vocabulary_size=100, eos_id=0, shard_tokens=shard_tokens)
    return WindowedTokens(TokenShards.open(folder).split("train"), sequence_length)


def read(tokens: WindowedTokens, numbers: Sequence[int]) -> list[list[int]]:
    """Return some windows."""
    rows = np.empty((len(numbers), tokens.sequence_length + 1), np.int64)
    tokens.read(np.array(numbers), rows)
    windows: list[list[int]] = rows.tolist()
    return windows


def test_windows_are_equally_long_and_share_one_token(tmp_path: Path) -> None:
    tokens = windowed(tmp_path, [21], sequence_length=5)
    assert read(tokens, [3, 0]) == [[16, 17, 18, 19, 20, 21], [1, 2, 3, 4, 5, 6]]


def test_the_last_window_is_filled_up_with_no_tokens(tmp_path: Path) -> None:
    tokens = windowed(tmp_path, [21], sequence_length=5)
    assert tokens.num_windows == 5
    assert read(tokens, [4]) == [[21, 0, *[NO_TOKEN] * 4]]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    sequence_length=st.integers(1, 12),
    shard_tokens=st.integers(5, 50),
)
def test_each_token_of_every_document_but_the_very_first_is_learnt_in_one_window(
    lengths: list[int], sequence_length: int, shard_tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if sum(lengths) + len(lengths) <= sequence_length:
        return
    tokens = windowed(tmp_path_factory.mktemp("tokens"), lengths, sequence_length, shard_tokens)
    windows = read(tokens, range(tokens.num_windows))
    learnt_tokens = [token for window in windows for token in window[1:] if token != NO_TOKEN]
    corpus = [token for length in lengths for token in [*range(1, 1 + length), 0]]
    assert learnt_tokens == corpus[1:]


def test_too_few_tokens_for_one_window_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"training\.sequence_length 4 needs at least 5 tokens, split train holds 4"):
        windowed(tmp_path, [3], sequence_length=4)
