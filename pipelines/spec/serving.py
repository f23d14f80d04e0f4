"""Sections about serving: the bento, the endpoint, the release."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.spec.base import Frozen
from pipelines.spec.resources import Cpu, Placement, Size


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

    silence_seconds: int = Field(default=120, ge=1)
    """How long a copy may be silent in an answer: longer than the time to the first token, and than one answer that is
    not streamed."""

    recorded_requests: int = Field(default=0, ge=0, le=1000)
    """Last requests of users that a copy keeps, redacted as far as patterns go, to send them again to both versions of
    the next rollout; shared out to the workers. 0: none, for prompts are private. On a cluster none are kept."""

    @model_validator(mode="after")
    def _every_worker_may_record(self) -> Self:
        if 0 < self.recorded_requests < self.workers:
            raise ValueError(
                f"recorded_requests must be 0 or at least one for each of the {self.workers} workers, "
                f"got {self.recorded_requests}"
            )
        return self


class ServingConfig(Placement):
    """How many pods of a version run on a cluster, where and with what; on one machine nothing of it is read."""

    replicas: int = Field(default=2, ge=1, le=1000)
    """Least pods of a copy; with 2, one may go away without anybody noticing."""

    max_replicas: int = Field(default=4, ge=1, le=1000)
    """Most pods of a copy; equal to `replicas`: their number is fixed."""

    cpu_percent: int = Field(default=70, ge=1, le=100)
    """Mean use of the requested CPU above which pods are added."""

    cpu: Cpu = "1"
    """CPU that a pod requests, and its limit."""

    memory: Size = "2Gi"
    """Memory that a pod requests, and its limit."""

    gpus: int = Field(default=0, ge=0, le=16)
    """GPUs of a pod."""

    disk: Size = "10Gi"
    """Room for the fetched bento and for what the service writes."""

    drain_seconds: int = Field(default=300, ge=1, le=7200)
    """How long a pod that is told to end may finish its answers: longer than the longest stream."""

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} must be at least replicas, {self.replicas}")
        return self


class MetricWeights(Frozen):
    """How much of the false-alarm rate each metric may use; at least one is above 0."""

    errors: float = Field(default=0.4, ge=0.0)
    """First attempts that failed."""

    latency: float = Field(default=0.3, ge=0.0)
    """Slow answers; split equally over latencies and quantiles."""

    validity: float = Field(default=0.15, ge=0.0)
    """Answers that are none."""

    quality: float = Field(default=0.15, ge=0.0)
    """Pairs of reference answers."""

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if sum(self.model_dump().values()) <= 0.0:
            raise ValueError("no metric has a weight above 0; a rollout that watches nothing is not possible")
        return self


class ReplayConfig(Frozen):
    """Reference requests and recorded ones (`service.recorded_requests`), sent to both versions on purpose."""

    requests_per_second: float = Field(default=2.0, ge=0.0, le=100.0)
    """Pairs per second; 0 turns replaying off."""


class QualityConfig(Frozen):
    """Which of the two versions gives the reference continuations the higher probability, pair by pair."""

    enabled: bool = True
    """Off: nothing then tells a version with worse answers from a better one."""

    margin: float = Field(default=0.03, ge=0.0)
    """A pair is bad for the version whose log-probability is lower by more than this, in nats per byte of text."""

    min_pairs: int = Field(default=200, ge=1, le=10_000)
    """Pairs that are scored before the first user traffic."""


class ApprovalConfig(Frozen):
    """When a person must agree."""

    before_users: bool = False
    """Before the first user traffic."""

    before_promotion: bool = False
    """Before all users get the new version."""

    timeout_seconds: int = Field(default=86_400, ge=1)
    """How long a person may take; then the rollout is rolled back."""


class RolloutConfig(Frozen):
    """How a new version replaces the old one."""

    weights: tuple[Annotated[int, Field(ge=1, le=99)], ...] = Field(default=(5, 25, 50), min_length=1)
    """Percent of user traffic at each step, rising; after the last comes 100."""

    bake_seconds: float = Field(default=60.0, ge=0.0)
    """Least time at each weight."""

    bake_full_seconds: float = Field(default=300.0, ge=0.0)
    """How long the old version stays warm after the new one got all traffic."""

    shadow_seconds: float = Field(default=30.0, ge=0.0)
    """Least time for which the new version gets a copy of all traffic before users see it; 0 skips mirroring."""

    warmup_requests: int = Field(default=20, ge=0, le=10_000)
    """Requests to the new version before the first counted one."""

    min_user_exposures: int = Field(default=50, ge=0)
    """User requests (or sessions) that the new version must have answered at each weight. 0 is for a service without
    users, and is said in the audit."""

    alpha: float = Field(default=0.01, gt=0.0, le=0.2)
    """Most that a version which is not worse is rolled back as worse, over the whole rollout."""

    beta: float = Field(default=0.05, gt=0.0, le=0.5)
    """Most that a version whose rate of bad events is at `max_bad_rate` or above passes for good."""

    tau: float = Field(default=1.1, ge=1.0, le=100.0)
    """The new version's rate of bad events may be so many times the old one's."""

    max_bad_rate: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Rate of bad events against which evidence is collected before the weight rises."""

    latency_margin: float = Field(default=0.25, ge=0.0)
    """A request is slow when it takes longer than a quantile of the old version's times one plus this."""

    metric_weights: MetricWeights = MetricWeights()
    replay: ReplayConfig = ReplayConfig()
    quality: QualityConfig = QualityConfig()
    approval: ApprovalConfig = ApprovalConfig()

    session_header: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$", max_length=64)
    """Header that keeps a user with one version; sessions are then the unit that is counted. Empty: requests are."""

    session_window_seconds: float = Field(default=60.0, gt=0.0)
    """A session is scored over its first so many seconds."""

    max_hold_seconds: float = Field(default=3600.0, gt=0.0)
    """How long a rollout may wait for evidence at one weight; then it is rolled back."""

    ready_timeout_seconds: int = Field(default=180, ge=1)
    """How long a new copy may take until it is ready."""

    unready_seconds: float = Field(default=30.0, gt=0.0)
    """How long the new copy may be not ready while it takes traffic; then it counts as dead."""

    permit_timeout_seconds: int = Field(default=600, ge=1)
    """How long a rollout waits for the next permit before it is rolled back as aborted."""

    drain_timeout_seconds: int = Field(default=60, ge=0)
    """How long the old copy may finish its requests."""

    look_seconds: float = Field(default=10.0, gt=0.0)
    """Seconds between two looks of the controller."""

    @field_validator("weights")
    @classmethod
    def _rising(cls, weights: tuple[int, ...]) -> tuple[int, ...]:
        if list(weights) != sorted(set(weights)):
            raise ValueError(f"weights {list(weights)} do not rise; write each percentage once, smallest first")
        return weights

    @model_validator(mode="after")
    def _may_end(self) -> Self:
        longest = max(self.shadow_seconds, self.bake_seconds, self.bake_full_seconds)
        if self.max_hold_seconds <= longest:
            raise ValueError(
                f"max_hold_seconds {self.max_hold_seconds:g} must exceed shadow_seconds, bake_seconds and "
                f"bake_full_seconds, the longest of which is {longest:g}: their time counts as waiting for evidence"
            )
        weights = self.metric_weights
        if not self.quality.enabled and weights.errors + weights.latency + weights.validity == 0.0:
            raise ValueError("metric_weights: only quality has a weight above 0, but quality.enabled is false")
        return self
