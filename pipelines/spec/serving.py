"""Sections about serving: the bento, the endpoint, the release."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.spec.base import Frozen


class PackagingConfig(Frozen):
    """What a bento carries besides the weights."""

    service: Literal["text_generation"] = "text_generation"
    """Folder under `bentos/`."""

    num_golden_requests: int = Field(default=8, ge=1, le=200)
    """Greedy answers that identify the weights."""

    num_reference_requests: int = Field(default=200, ge=0, le=10_000)
    """Held-out prompts with continuations that measure quality."""

    golden_tokens: int = Field(default=16, ge=1, le=512)
    """Tokens per golden answer."""


class ServiceConfig(Frozen):
    """How the endpoint serves."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes per copy."""

    threads: int = Field(default=1, ge=1)
    """Compute threads per process."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    """Requests computed together."""

    max_queue: int = Field(default=64, ge=1)
    """Requests that may wait; more get 429."""

    max_tokens: int = Field(default=256, ge=1)
    """Most tokens that one request may ask for."""

    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Largest request body; larger ones get 413."""

    idempotent: bool = True
    """Whether a request may be sent again after a failed attempt; inference is."""


class RolloutConfig(Frozen):
    """How a new version replaces the old one."""

    ready_timeout_seconds: int = Field(default=180, ge=1)
    """How long a new copy may take until it is ready."""

    permit_timeout_seconds: int = Field(default=600, ge=1)
    """How long a rollout waits for the next permit before it is rolled back as aborted."""

    drain_timeout_seconds: int = Field(default=60, ge=0)
    """How long the old copy may finish its requests."""

    look_seconds: float = Field(default=1.0, gt=0.0)
    """Seconds between two looks of the controller."""
