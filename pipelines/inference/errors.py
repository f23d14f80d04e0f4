"""Errors of the generation engine; the service turns them into HTTP answers."""

from __future__ import annotations

from typing import ClassVar

from pipelines.errors import BadInput, SlipwayError


class RequestRefused(BadInput):
    """A request that this model can never answer; `field` names the part that breaks the rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


class QueueFull(SlipwayError):
    """The engine's bounded queue has no room; `retry_after_seconds` estimates when it will."""

    retryable: ClassVar[bool] = True

    def __init__(self, num_waiting: int, retry_after_seconds: float) -> None:
        super().__init__(f"{num_waiting} requests wait already; try again in {retry_after_seconds:.1f} s")
        self.retry_after_seconds = retry_after_seconds


class EngineStopped(SlipwayError):
    """The engine was closed, or its model failed, before the request was finished."""

    retryable: ClassVar[bool] = True


class ModelUnusable(BadInput):
    """A folder that does not hold a causal language model that this engine can run."""
