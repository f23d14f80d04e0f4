"""Keep the last requests of users, redacted, so that a release can send them to the next version.

Only when the spec asks for it. A request pays for an append to a queue; a thread redacts and writes the file, so that a
killed process loses the last seconds, and a full disk costs nobody an answer. No endpoint shows what is kept.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Self

from bentos.text_generation.protocol import ChatRequest, CompletionRequest
from pipelines.formats import recordings
from pipelines.formats.redaction import redact
from pipelines.formats.requests import RecordedMessage, RecordedRequest
from pipelines.spec import ServiceConfig

logger = logging.getLogger("bentoml.slipway")  # BentoML shows only its own tree

FLUSH_SECONDS = 2.0
"""Between two writes, when there is something new."""

MAX_PER_FLUSH = 50
"""Newest requests that are redacted in one go: under heavy traffic a sample is kept, and the requests keep the CPU."""

CLOSE_SECONDS = 5.0

MAX_CHARACTERS = 8192
"""Longest text, all prompts or messages together, of a request that is kept."""

Asked = CompletionRequest | ChatRequest


class Recorder:
    """The last requests of one worker process. `note` is for the event loop, all else for the recorder's thread."""

    def __init__(self, path: Path, capacity: int) -> None:
        """Go on with what a predecessor left in the file.

        Args:
            path: the worker's file.
            capacity: how many requests are kept; with 0 nothing is ever written.
        """
        self._path = path
        self._capacity = capacity
        self._new: deque[Asked] = deque(maxlen=min(capacity, MAX_PER_FLUSH))
        self._kept = deque(recordings.read(path) if capacity else (), maxlen=capacity)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_flushing, name="recorder", daemon=True)

    @classmethod
    def of_worker(cls, service: ServiceConfig, worker: int) -> Self:
        """Return the started recorder of a worker, in the home that the fleet gave to its copy.

        Without a home of its own a copy records nothing: anywhere else, users' prompts would outlive it. Nor does one
        whose recordings nobody could read.
        """
        home = os.environ.get("BENTOML_HOME", "")
        obstacle = "" if home else "BENTOML_HOME does not name a folder of this copy's own"
        if os.environ.get(recordings.UNREAD):
            obstacle = "nobody could read recordings here"
        if service.recorded_requests and obstacle:
            logger.warning("no request is recorded: %s", obstacle)
        capacity = 0 if obstacle else service.recorded_requests // service.workers
        recorder = cls(recordings.path_of(Path(home), worker), capacity)
        recorder.start()
        return recorder

    def start(self) -> None:
        """Begin to write, every few seconds."""
        if self._capacity:
            self._thread.start()

    def note(self, asked: Asked) -> None:
        """Remember a request that was accepted."""
        if self._capacity and _is_recordable(asked):
            self._new.append(asked)

    def flush(self) -> None:
        """Redact what is new and write what is kept."""
        num_new = len(self._new)
        for _ in range(num_new):
            self._kept.append(_redacted(self._new.popleft()))
        if num_new:
            try:
                recordings.write(self._path, self._kept)
            except OSError as error:
                logger.warning("requests are not recorded: %s", error)

    def close(self) -> None:
        """Write the last ones, and end."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _keep_flushing(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()


def _is_recordable(asked: Asked) -> bool:
    """Say whether a request is short enough, and text: token numbers could not be redacted."""
    if isinstance(asked, ChatRequest):
        return sum(len(message.role) + len(message.text) for message in asked.messages) <= MAX_CHARACTERS
    return all(isinstance(prompt, str) for prompt in asked.prompt) and sum(map(len, asked.prompt)) <= MAX_CHARACTERS


def _redacted(asked: Asked) -> RecordedRequest:
    """Return what is kept of a request: named fields only, so that nothing is kept by accident."""
    stop = tuple(map(redact, asked.stop)) or None
    if isinstance(asked, ChatRequest):
        return RecordedRequest(
            path="/v1/chat/completions",
            messages=tuple(RecordedMessage(role=turn.role, content=redact(turn.text)) for turn in asked.messages),
            max_tokens=asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=stop,
            stream=asked.stream,
        )
    prompts = tuple(redact(prompt) for prompt in asked.prompt if isinstance(prompt, str))
    return RecordedRequest(
        path="/v1/completions",
        prompt=prompts[0] if len(prompts) == 1 else prompts,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=stop,
        stream=asked.stream,
        echo=asked.echo,
        logprobs=asked.logprobs,
    )
