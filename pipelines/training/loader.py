"""Batches on the device before they are asked for: one thread reads the memory-mapped tokens of the coming steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import torch

from pipelines.training.data import BatchOrder, Share, WindowedTokens

BLOCK_TOKENS = 1 << 19
"""Tokens that are read at once: of small batches many, for the thread then seldom disturbs the loop."""

NUM_BLOCKS = 2
"""Blocks that the loop learns from or that are being read."""


@dataclass(frozen=True)
class Block:
    """The micro-batches of some steps, on the device or on their way."""

    micro_batches: Sequence[torch.Tensor]
    """Step by step, each of shape (windows, sequence_length + 1); all are views of one tensor."""

    copied: torch.cuda.Event | None
    """Happens when they have arrived; None where nothing is copied."""


@dataclass
class Buffer:
    """Host memory of one block, used for one after the other: to get fresh memory takes as long as to fill it."""

    rows: torch.Tensor
    """Shape (windows, sequence_length + 1); pinned where it is copied from."""

    copied: torch.cuda.Event | None = None
    """Happens when the device has copied what lies there."""

    def wait(self) -> None:
        """Wait until it may be written to."""
        if self.copied is not None:
            self.copied.synchronize()


class Loader:
    """Yields one rank's batches, step by step: accumulation_steps tensors of shape (windows, sequence_length + 1)."""

    def __init__(self, tokens: WindowedTokens, order: BatchOrder, share: Share, device: torch.device) -> None:
        self._tokens, self._order, self._share = tokens, order, share
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def example(self) -> torch.Tensor:
        """Return a micro-batch for trying out, as if it were of the first step."""
        return next(self.batches(range(1)))[0]

    def batches(self, steps: range) -> Generator[tuple[torch.Tensor, ...]]:
        """Yield the batches of some steps, each to be used before the next is asked for; the thread ends with them."""
        pending: deque[Future[Block]] = deque()
        size = self._steps_per_block()
        buffers = cycle([self._buffer(min(size, len(steps))) for _ in range(NUM_BLOCKS)])
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
            for start in range(steps.start, steps.stop, size):
                ahead = range(start, min(start + size, steps.stop))
                pending.append(thread.submit(self._read, ahead, next(buffers)))
                if len(pending) == NUM_BLOCKS:
                    yield from self._arrived(pending.popleft().result())
            while pending:
                yield from self._arrived(pending.popleft().result())

    def _steps_per_block(self) -> int:
        return max(1, BLOCK_TOKENS // (self._order.batch_size // self._share.world_size * self._tokens.sequence_length))

    def _buffer(self, num_steps: int) -> Buffer:
        windows = num_steps * self._order.batch_size // self._share.world_size
        shape = (windows, self._tokens.sequence_length + 1)
        return Buffer(torch.empty(shape, dtype=torch.int64, pin_memory=self._stream is not None))

    def _read(self, steps: range, buffer: Buffer) -> Block:
        """Read what the loop will ask for; runs in the thread."""
        windows = self._order.windows(steps, self._share)
        num_micro_batches, size = len(steps) * windows.shape[1], windows.shape[2]
        buffer.wait()
        rows = buffer.rows[: windows.size]
        self._tokens.read(windows.ravel(), rows.numpy())
        if self._stream is None:
            return Block(rows.unflatten(0, (num_micro_batches, size)).unbind(), None)
        with torch.cuda.stream(self._stream):  # beside what the loop computes
            copies = rows.to(self._stream.device, non_blocking=True)
            buffer.copied = self._stream.record_event()
            return Block(copies.unflatten(0, (num_micro_batches, size)).unbind(), buffer.copied)

    def _arrived(self, block: Block) -> Iterator[tuple[torch.Tensor, ...]]:
        """Let the device, not the host, wait for the copies; return them step by step."""
        if block.copied is not None:
            some = block.micro_batches[0]
            stream = torch.cuda.current_stream(some.device)
            stream.wait_event(block.copied)
            some.record_stream(stream)  # and with it the memory of all
        return zip(*[iter(block.micro_batches)] * self._share.accumulation_steps, strict=True)
