"""The caller's end of a running request: iterate over it, await it, cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future

from pipelines.inference.request import Chunk, Completion


class Generation:
    """Handle of one submitted request; safe to use from any thread or event loop, by one consumer of its stream."""

    def __init__(self) -> None:
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._future: Future[Completion] = Future()
        self._future.set_running_or_notify_cancel()  # ends by the engine's word only; `cancel` asks for it
        self._is_cancelled = False
        self._wake: Callable[[], object] = _nothing

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Stop computing: the engine gives the row away before its next step. Harmless when already finished."""
        self._is_cancelled = True

    def result(self, timeout_seconds: float | None = None) -> Completion:
        """Wait for the whole answer.

        Raises:
            EngineStopped: when the engine was closed or its model failed.
            TimeoutError: when the answer is not there in time.
        """
        return self._future.result(timeout_seconds)

    async def completion(self) -> Completion:
        """Await the whole answer without blocking the event loop; cancelling the awaiting task cancels the request."""
        try:
            return await asyncio.wrap_future(self._future)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the answer piece by piece; an error of the engine is raised at the end."""
        while (chunk := self._chunks.get()) is not None:
            yield chunk
        self._future.result()

    async def __aiter__(self) -> AsyncGenerator[Chunk]:
        """Yield the answer piece by piece; leaving the loop early cancels the request."""
        async with contextlib.aclosing(merge([self])) as pieces:
            async for _, chunk in pieces:
                yield chunk

    def arrived(self, wake: Callable[[], object]) -> Iterator[Chunk | None]:
        """Yield the pieces that are there, and None after the last; `wake` is called when there is more."""
        self._wake = wake  # before looking: what comes in between must wake
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._chunks.get_nowait()

    def leave(self) -> None:
        """Stop listening; what is not finished is cancelled."""
        self._wake = _nothing
        if not self._future.done():
            self.cancel()

    def push(self, chunk: Chunk) -> None:
        """Hand a piece to the consumer (called by the engine)."""
        self._chunks.put(chunk)
        self._notify()

    def end(self, outcome: Completion | BaseException) -> None:
        """Close the stream with the whole answer or an error (called by the engine, once)."""
        if isinstance(outcome, BaseException):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)
        self._chunks.put(None)
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, _nothing  # once is enough: a consumer that is awake looks by itself
        with contextlib.suppress(RuntimeError):  # the consumer's event loop has closed: nobody listens
            wake()


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Chunk]]:
    """Yield (number of the answer, piece) as pieces come; an engine's error is raised, leaving early cancels all."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    running = dict(enumerate(generations))
    try:
        while running:
            ready.clear()
            for number, generation in list(running.items()):
                for chunk in generation.arrived(lambda: loop.call_soon_threadsafe(ready.set)):
                    if chunk is None:
                        del running[number]
                        generation.result()
                        break
                    yield number, chunk
            if running:
                await ready.wait()
    finally:
        for generation in running.values():
            generation.leave()


def _nothing() -> None:
    """Wake nobody."""
