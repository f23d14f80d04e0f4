"""Keys and values of all running sequences, in preallocated rows that sequences join and leave at any step."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """A `transformers` cache with one row per running sequence, each with a length of its own.

    Rows in use are always the first ones, so a step reads a plain slice and copies nothing. Before each forward pass
    the runner says where the new states go: `begin_prefill` (whole prompts into fresh rows) or `begin_decode` (one
    token for each row, each at its own position). The model is given explicit positions and, where rows differ in
    length, an explicit 4-D mask; this class only stores.
    """

    def __init__(self, num_rows: int, num_positions: int) -> None:
        super().__init__(layers=[])
        self.num_rows = num_rows
        self.num_positions = num_positions
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._first_row = 0
        self._count = 0
        self._length = 0
        self._index: tuple[torch.Tensor, ...] | None = None
        self._row_ids = torch.arange(num_rows)

    def begin_prefill(self, first_row: int, count: int) -> None:
        """Write the next pass's states from position 0 on into `count` rows from `first_row`."""
        self._first_row, self._count, self._index, self._length = first_row, count, None, 0

    def begin_decode(self, positions: torch.Tensor, count: int, longest: int) -> None:
        """Write one state for each of the first `count` rows at `positions`; show the first `longest + 1`."""
        self._count, self._length = count, longest + 1
        self._index = (self._row_ids[:count], positions)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` into row `target`."""
        for states in (*self._keys, *self._values):
            states[target, :, :length] = states[source, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new states of shape (rows, heads, positions, head size); return all that the rows may attend to."""
        if layer_idx == len(self._keys):
            self._keys.append(self._allocate(key_states))
            self._values.append(self._allocate(value_states))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self._index is None:
            rows = slice(self._first_row, self._first_row + self._count)
            keys[rows, :, : key_states.shape[2]] = key_states
            values[rows, :, : value_states.shape[2]] = value_states
            return key_states, value_states
        if self._count == 1:  # a slice is cheaper than an indexed write, and a lone request pays nothing for batching
            keys[:1, :, self._length - 1 : self._length] = key_states
            values[:1, :, self._length - 1 : self._length] = value_states
        else:
            rows, positions = self._index
            keys[rows, :, positions] = key_states[:, :, 0]
            values[rows, :, positions] = value_states[:, :, 0]
        return keys[: self._count, :, : self._length], values[: self._count, :, : self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many positions precede the next pass's tokens."""
        return max(self._length - 1, 0)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of the next pass's first token."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of positions that the next pass attends to, and the first of them."""
        return self.get_seq_length(layer_idx) + query_length, 0

    @property
    def is_sliding(self) -> list[bool]:
        """Return no sliding layers: the engine keeps contexts within a model's window."""
        return [False]

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        # Zeros, not empty: a masked position still takes part in 0 x value, and 0 x NaN would be NaN.
        return states.new_zeros(self.num_rows, states.shape[1], self.num_positions, states.shape[3])
