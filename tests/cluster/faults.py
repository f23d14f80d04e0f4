"""Failures by a seed: refused calls, calls without an answer, broken streams, killed pods."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum

from tests.cluster import refusals
from tests.cluster.calls import Answer, Call


class NoAnswer(Exception):
    """A call that the server takes and never answers."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds} s")
        self.seconds = seconds


class Cut(Exception):
    """A stream that breaks off in the middle."""


class Fault(StrEnum):
    """What may go wrong."""

    CONFLICT = "conflict"
    """409 for a change."""

    UNAUTHORIZED = "unauthorized"
    """401, as when a token has run out."""

    SERVER_ERROR = "server-error"
    """500, before anything was done."""

    LOST_REQUEST = "lost-request"
    """Nothing is done and no answer comes; after a while the connection is closed."""

    LOST_ANSWER = "lost-answer"
    """What was asked is done, but no answer comes, and after a while the connection is closed."""

    LOST_WATCH = "lost-watch"
    """A watch or a followed log breaks off."""

    KILLED_POD = "killed-pod"
    """A pod dies soon after its container has started."""


_CHANGES = ("create", "update", "patch", "delete")
_BY_CALL = (Fault.CONFLICT, Fault.UNAUTHORIZED, Fault.SERVER_ERROR, Fault.LOST_REQUEST, Fault.LOST_ANSWER)


class Faults:
    """Decides for each call and each pod whether it fails, and how: equal seeds decide alike for equal calls.

    A decision depends on the seed, on the kind of call (verb and resource) and on how many of them came before; so
    the order in which threads of different kinds run does not change it.
    """

    def __init__(
        self,
        seed: int,
        rate: float = 0.1,
        kinds: frozenset[Fault] = frozenset(Fault),
        silence_seconds: float = 2.0,
        life_seconds: float = 1.0,
    ) -> None:
        """Set up a schedule.

        Args:
            seed: chooses the schedule.
            rate: share of calls and of pods that fail.
            kinds: what may happen.
            silence_seconds: how long a client waits for a lost answer.
            life_seconds: longest life of a container whose pod is killed.
        """
        self.seed = seed
        self.rate = rate
        self.done: Counter[Fault] = Counter()
        self._kinds = kinds
        self._silence_seconds = silence_seconds
        self._life_seconds = life_seconds
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def around(self, call: Call, serve: Callable[[], Answer]) -> Answer:
        """Serve a call, or let it fail."""
        fault = self._next(call)
        match fault:
            case Fault.CONFLICT:
                raise refusals.conflict(call.kind, call.name)
            case Fault.UNAUTHORIZED:
                raise refusals.unauthorized()
            case Fault.SERVER_ERROR:
                raise refusals.Refused(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
            case Fault.LOST_REQUEST:
                raise NoAnswer(self._silence_seconds)
            case Fault.LOST_ANSWER:
                serve()
                raise NoAnswer(self._silence_seconds)
        answer = serve()
        if fault is Fault.LOST_WATCH and answer.stream is not None:
            return replace(answer, stream=self._cut(answer.stream))
        return answer

    def kills(self) -> float | None:
        """Return after how many seconds the next pod's containers are killed; None: they are not."""
        draw = self._draw("pods")
        if Fault.KILLED_POD not in self._kinds or draw.random() >= self.rate:
            return None
        self._note(Fault.KILLED_POD)
        return draw.uniform(0.0, self._life_seconds)

    def _next(self, call: Call) -> Fault | None:
        is_stream = call.verb == "watch" or call.flag("follow")
        possible = [Fault.LOST_WATCH] if is_stream else list(_BY_CALL)
        if call.verb not in _CHANGES and Fault.CONFLICT in possible:
            possible.remove(Fault.CONFLICT)
        possible = [fault for fault in possible if fault in self._kinds]
        draw = self._draw(f"{call.verb} {call.kind.resource} {call.subresource}")
        if not possible or draw.random() >= self.rate:
            return None
        fault = draw.choice(possible)
        if fault is not Fault.LOST_WATCH:
            self._note(fault)
        return fault

    def _cut(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the beginning of a stream: until something has come, then it breaks."""
        for part in stream:
            if part:
                yield part[: len(part) // 2]
                self._note(Fault.LOST_WATCH)
                raise Cut
            yield part

    def _draw(self, what: str) -> random.Random:
        with self._lock:
            self._calls[what] += 1
            number = self._calls[what]
        return random.Random(f"{self.seed} {what} {number}")  # noqa: S311  # a schedule, not a secret

    def _note(self, fault: Fault) -> None:
        with self._lock:
            self.done[fault] += 1


NO_FAULTS = Faults(0, rate=0.0)
"""A schedule in which nothing fails."""
