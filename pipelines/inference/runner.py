"""Run the model on a batch of sequences: prompts in one pass, then one token for every sequence per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.inference.cache import SlotCache
from pipelines.inference.model import LoadedModel
from pipelines.inference.request import TokenLogprob
from pipelines.inference.sampling import choose, token_logprobs
from pipelines.inference.sequence import SequenceState


@dataclass(frozen=True, slots=True)
class Step:
    """One row's result of a pass."""

    sequence: SequenceState
    token: int
    logprob: TokenLogprob | None
    is_finite: bool
    """Whether the model gave numbers."""


class BatchRunner:
    """The running batch. Row i of every tensor and of the cache belongs to `sequences[i]`.

    Not thread-safe; to be used inside `torch.inference_mode()`.

    `positions[i]` is where row i's next input goes; `tokens[i]` is that input, kept as a tensor so that a step of
    greedy decoding moves nothing but the chosen tokens from the model to Python.
    """

    def __init__(self, loaded: LoadedModel, *, max_rows: int, max_positions: int) -> None:
        self.sequences: list[SequenceState] = []
        self.num_passes = 0
        self._model = loaded.model
        self._cache = SlotCache(max_rows, max_positions)
        self._max_rows = max_rows
        self._positions = torch.zeros(max_rows, dtype=torch.long)
        self._tokens = torch.zeros(max_rows, dtype=torch.long)
        self._lengths: list[int] = []
        self._all_positions = torch.arange(max_positions)
        self._rows_wanting_logprobs: list[int] = []

    @property
    def num_free(self) -> int:
        """Rows without a sequence."""
        return self._max_rows - len(self.sequences)

    def prefill(self, newcomers: Sequence[SequenceState]) -> list[Step]:
        """Read the prompts of `newcomers` in one pass; they join the batch. Return each one's first token.

        Shorter prompts are padded on the right: causal attention never looks there, and the row's own tokens later
        overwrite what the padding left in the cache.
        """
        first, count = len(self.sequences), len(newcomers)
        lengths = [len(sequence.prompt) for sequence in newcomers]
        longest = max(lengths)
        ids = torch.zeros(count, longest, dtype=torch.long)
        for row, sequence in enumerate(newcomers):
            ids[row, : lengths[row]] = torch.tensor(sequence.prompt)
        whole = any(sequence.wants_prompt_logprobs for sequence in newcomers)
        last = torch.tensor(lengths)[:, None] - 1
        self._cache.begin_prefill(first, count)
        logits = self._forward(ids, self._all_positions[None, :longest], None, 0 if whole else last)
        if whole:
            for row, sequence in enumerate(newcomers):
                if sequence.wants_prompt_logprobs:
                    sequence.prompt_logprobs = _prompt_logprobs(sequence, logits[row, : lengths[row] - 1])
            logits = logits.gather(1, last[..., None].expand(-1, -1, logits.shape[-1]))
        self.sequences.extend(newcomers)
        self._lengths.extend(lengths)
        self._positions[first : first + count] = last[:, 0] + 1
        self._note_logprobs()
        return self._take(logits[:, 0], first)

    def decode(self) -> list[Step]:
        """Run one step for every sequence of the batch; return each one's next token."""
        count = len(self.sequences)
        positions = self._positions[:count]
        longest = max(self._lengths)
        self._cache.begin_decode(positions, count, longest)
        mask = self._decode_mask(positions, longest + 1) if min(self._lengths) < longest else None
        logits = self._forward(self._tokens[:count, None], positions[:, None], mask, 1)
        self._positions[:count] += 1
        self._lengths = [length + 1 for length in self._lengths]
        return self._take(logits[:, 0], 0)

    def remove(self, sequence: SequenceState) -> None:
        """Free the sequence's row; the last row moves into the gap."""
        row, last = self.sequences.index(sequence), len(self.sequences) - 1
        if row != last:
            self._cache.move(last, row, self._lengths[last])
            for values in (self._positions, self._tokens):
                values[row] = values[last]
            self.sequences[row], self._lengths[row] = self.sequences[last], self._lengths[last]
        self.sequences.pop()
        self._lengths.pop()
        self._note_logprobs()

    def _take(self, logits: torch.Tensor, first: int) -> list[Step]:
        """Choose and remember the next tokens of the rows from `first` on."""
        rows = self.sequences[first:]
        chosen, largest = choose(logits, [sequence.sampler for sequence in rows])
        self._tokens[first : len(self.sequences)] = chosen
        logprobs: dict[int, TokenLogprob] = {}
        for row in self._rows_wanting_logprobs:
            if row >= first:
                here = slice(row - first, row - first + 1)
                num_top = self.sequences[row].params.logprobs or 0
                logprobs[row - first] = token_logprobs(logits[here], chosen[here], num_top)[0]
        return [
            Step(sequence, token, logprobs.get(row), math.isfinite(logit))
            for row, (sequence, token, logit) in enumerate(zip(rows, chosen.tolist(), largest.tolist(), strict=True))
        ]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, keep: int | torch.Tensor
    ) -> torch.Tensor:
        self.num_passes += 1
        logits: torch.Tensor = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits

    def _decode_mask(self, positions: torch.Tensor, length: int) -> torch.Tensor:
        """Return the additive mask (rows, 1, 1, length) that hides what lies behind each row's own position."""
        hidden = self._all_positions[:length] > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]

    def _note_logprobs(self) -> None:
        self._rows_wanting_logprobs = [
            row for row, sequence in enumerate(self.sequences) if sequence.params.logprobs is not None
        ]


def _prompt_logprobs(sequence: SequenceState, logits: torch.Tensor) -> tuple[TokenLogprob, ...]:
    """Return each prompt token's log-probability; `logits` (prompt tokens - 1, vocabulary) predict the rest."""
    following = torch.tensor(sequence.prompt[1:])
    scored = token_logprobs(logits, following, sequence.params.logprobs or 0) if len(following) else []
    return (TokenLogprob(sequence.prompt[0], None), *scored)
