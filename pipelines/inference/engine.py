"""Zero-wait continuous batching: whenever the model is free, it runs what is queued."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from pipelines.inference.errors import EngineStopped, QueueFull, RequestRefused
from pipelines.inference.generation import Generation
from pipelines.inference.model import LoadedModel, load_model
from pipelines.inference.request import Completion, FinishReason, SamplingParams, ScoreItem
from pipelines.inference.runner import BatchRunner, Step
from pipelines.inference.scoring import score
from pipelines.inference.sequence import SequenceState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of request durations."""


@dataclass(frozen=True, slots=True)
class _ScoreJob:
    items: Sequence[ScoreItem]
    future: Future[list[NDArray[np.float64]]]


class Engine:
    """One model, one worker thread, many requests.

    The worker repeats: admit what waits and fits, read the newcomers' prompts, advance every running sequence by one
    token. There is no timer: a lone request never waits for company, and a newcomer joins at the next step.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_batch: int = 16,
        max_queue: int = 64,
        context_limit: int | None = None,
        max_prefill_tokens: int = 2048,
        threads: int | None = None,
    ) -> None:
        """Start the worker.

        Args:
            loaded: the model.
            max_batch: sequences that run at the same time.
            max_queue: requests that may wait for a place.
            context_limit: most tokens of prompt and answer together; at most, and by default, the model's own.
            max_prefill_tokens: prompt tokens read between two decode steps, so that a long queue of prompts does not
                stall answers under way (a single longer prompt is read whole).
            threads: CPU threads of the model; default: torch's own choice.
        """
        self.context_limit = min(context_limit or loaded.max_positions, loaded.max_positions)
        self.max_batch = max_batch
        self._loaded = loaded
        self._max_queue = max_queue
        self._max_prefill_tokens = max_prefill_tokens
        self._threads = threads
        self._runner = BatchRunner(loaded, max_rows=max_batch, max_positions=self.context_limit)
        self._changed = threading.Condition()
        self._waiting: deque[SequenceState] = deque()
        self._score_jobs: deque[_ScoreJob] = deque()
        self._generations: dict[SequenceState, Generation] = {}
        self._closed = False
        self._mean_request_seconds = 0.0
        self._worker = threading.Thread(target=self._work, name="inference", daemon=True)
        self._worker.start()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        max_batch: int = 16,
        max_queue: int = 64,
        context_limit: int | None = None,
        threads: int | None = None,
    ) -> Self:
        """Return a running engine for the Hugging Face model in `folder`.

        Raises:
            ModelUnusable: when the folder does not hold a model that the engine can run.
        """
        loaded = load_model(folder)
        return cls(loaded, max_batch=max_batch, max_queue=max_queue, context_limit=context_limit, threads=threads)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._loaded.tokenizer

    @property
    def end_token(self) -> int | None:
        """The token that ends a document; None when the model has none."""
        return self._loaded.end_token

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the model knows."""
        return self._loaded.vocab_size

    @property
    def is_healthy(self) -> bool:
        """Whether the engine still takes requests."""
        return not self._closed and self._worker.is_alive()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._runner.sequences)

    @property
    def num_passes(self) -> int:
        """Forward passes so far, prompts and decode steps alike."""
        return self._runner.num_passes

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text`, with the special tokens that the tokenizer adds to a document."""
        return tuple(self.tokenizer.encode(text).ids)

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> Generation:
        """Queue a prompt; its answer comes through the returned handle. Errors as for `submit_all`."""
        return self.submit_all([prompt], params)[0]

    def submit_all(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Generation]:
        """Queue several prompts, all or none, and return a handle for each.

        Raises:
            RequestRefused: when a prompt is empty, holds an unknown token, or does not fit the context.
            QueueFull: when too many wait already.
            EngineStopped: when the engine is closed.
        """
        sequences = {self._sequence(tuple(prompt), params): Generation() for prompt in prompts}
        with self._changed:
            self._refuse_when_stopped()
            if len(self._waiting) + len(sequences) > self._max_queue:
                seconds = self._mean_request_seconds * (1 + len(self._waiting) / self.max_batch)
                raise QueueFull(len(self._waiting), max(seconds, 0.1))
            self._generations.update(sequences)
            self._waiting.extend(sequences)
            self._changed.notify()
        return list(sequences.values())

    def generate(self, prompt: str | Sequence[int], params: SamplingParams) -> Completion:
        """Return the whole answer to `prompt`, waiting for it; errors as for `submit`."""
        return self.submit(self.encode(prompt) if isinstance(prompt, str) else prompt, params).result()

    def score(self, prompt: Sequence[int], continuation: Sequence[int]) -> NDArray[np.float64]:
        """Return the log-probability, in nats, of each token of `continuation` after `prompt`."""
        return self.score_batch([ScoreItem(tuple(prompt), tuple(continuation))])[0]

    def score_batch(self, items: Sequence[ScoreItem]) -> list[NDArray[np.float64]]:
        """Score `items` in one forward pass of their own, so that equal calls give equal numbers to the last bit.

        Raises:
            RequestRefused: when a part is empty or an item does not fit the context.
            EngineStopped: when the engine is closed.
        """
        for item in items:
            self._check("prompt", item.prompt, len(item.continuation))
            self._check("continuation", item.continuation, 0)
        job = _ScoreJob(items, Future())
        with self._changed:
            self._refuse_when_stopped()
            self._score_jobs.append(job)
            self._changed.notify()
        return job.future.result()

    def close(self) -> None:
        """Stop the worker; unfinished requests end with EngineStopped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _sequence(self, prompt: tuple[int, ...], params: SamplingParams) -> SequenceState:
        self._check("prompt", prompt, params.max_tokens)
        return SequenceState(prompt, params, self.tokenizer, self._loaded.end_tokens)

    def _check(self, field: str, tokens: tuple[int, ...], num_more: int) -> None:
        if not tokens:
            raise RequestRefused(field, "must have at least one token")
        if not 0 <= min(tokens) <= max(tokens) < self._loaded.vocab_size:
            raise RequestRefused(field, f"has a token outside 0..{self._loaded.vocab_size - 1}")
        if len(tokens) + num_more > self.context_limit:
            raise RequestRefused(
                field,
                f"has {len(tokens)} tokens and {num_more} more are asked for; together they must not exceed "
                f"{self.context_limit}",
            )

    def _refuse_when_stopped(self) -> None:
        if self._closed:
            raise EngineStopped("the engine is closed")

    def _work(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while self._work_once():
                    pass
            self._end_all(EngineStopped("the engine was closed"))
        except Exception as error:
            logger.exception("the model failed; the engine stops")
            self._end_all(EngineStopped(f"the model failed: {error}"))

    def _work_once(self) -> bool:
        """Wait for work and do one round of it; return False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            if self._closed:
                return False
            cancelled = self._withdraw_cancelled()
            newcomers = self._admit()
            job = self._score_jobs.popleft() if self._score_jobs else None
        for sequence in cancelled:
            self._generations[sequence].push(sequence.finish(FinishReason.CANCELLED))
            self._end(sequence)
        self._round(newcomers, job)
        return True

    def _has_work(self) -> bool:
        return bool(self._closed or self._waiting or self._score_jobs or self._runner.sequences)

    def _withdraw_cancelled(self) -> list[SequenceState]:
        """Return the sequences whose callers have given up; free their places in queue and batch."""
        everyone = (*self._waiting, *self._runner.sequences)
        cancelled = [sequence for sequence in everyone if self._generations[sequence].is_cancelled]
        for sequence in cancelled:
            if sequence in self._runner.sequences:
                self._runner.remove(sequence)
            else:
                self._waiting.remove(sequence)
        return cancelled

    def _admit(self) -> list[SequenceState]:
        """Take from the queue, in order, what has a free row and fits this round's share of prompt tokens."""
        newcomers: list[SequenceState] = []
        budget = self._max_prefill_tokens
        while self._waiting and len(newcomers) < self._runner.num_free:
            length = len(self._waiting[0].prompt)
            if newcomers and length > budget:
                break
            budget -= length
            newcomers.append(self._waiting.popleft())
        return newcomers

    def _round(self, newcomers: list[SequenceState], job: _ScoreJob | None) -> None:
        for group in _alike(newcomers):
            for sequence in group:
                sequence.start()
            for step in self._runner.prefill(group):
                self._begin(step)
        if job is not None:
            self._run_scores(job)
        if self._runner.sequences:
            for step in self._runner.decode():
                self._accept(step)

    def _begin(self, step: Step) -> None:
        generation = self._generations[step.sequence]
        if (echoed := step.sequence.echo()) is not None:
            generation.push(echoed)
        if step.sequence.params.max_tokens == 0:
            generation.push(step.sequence.finish(FinishReason.LENGTH))
            self._end(step.sequence)
        else:
            self._accept(step)

    def _accept(self, step: Step) -> None:
        chunk = step.sequence.accept(step.token, step.logprob, is_finite=step.is_finite)
        if chunk is not None:
            self._generations[step.sequence].push(chunk)
        if step.sequence.finish_reason is not None:
            self._end(step.sequence)

    def _end(self, sequence: SequenceState) -> None:
        if sequence in self._runner.sequences:
            self._runner.remove(sequence)
        completion = sequence.completion()
        newest = completion.timings.total_seconds - completion.timings.queued_seconds
        self._mean_request_seconds += SMOOTHING * (newest - self._mean_request_seconds)
        self._generations.pop(sequence).end(completion)

    def _run_scores(self, job: _ScoreJob) -> None:
        try:
            job.future.set_result(score(self._loaded.model, job.items))
        except Exception as error:
            job.future.set_exception(EngineStopped(f"the model failed: {error}"))
            raise

    def _end_all(self, error: EngineStopped) -> None:
        with self._changed:
            self._closed = True
            generations = list(self._generations.values())
            jobs = list(self._score_jobs)
            self._generations.clear()
            self._score_jobs.clear()
            self._waiting.clear()
        for generation in generations:
            generation.end(error)
        for job in jobs:
            job.future.set_exception(error)


def _alike(sequences: list[SequenceState]) -> Iterator[list[SequenceState]]:
    """Group sequences for common prefill passes: padding at most doubles a prompt, and scored prompts go apart."""

    def kind(sequence: SequenceState) -> tuple[bool, int]:
        return sequence.wants_prompt_logprobs, (len(sequence.prompt) - 1).bit_length()

    for _, group in groupby(sorted(sequences, key=kind), key=kind):
        yield list(group)
