"""The training section: how long, how, by which strategy, from where, and what happens when it goes wrong."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.spec.base import Frozen
from pipelines.spec.data import Location
from pipelines.spec.strategies import DdpConfig, DilocoConfig, ParameterServerConfig, StrategyConfig, TensorConfig


class LoraConfig(Frozen):
    """Low-rank adapters, trained in place of the weights.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    """

    rank: int = Field(default=8, ge=1)
    """Inner width of each adapter."""

    alpha: float = Field(default=16.0, gt=0.0)
    """An adapter's change is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of an adapter's inputs that are dropped."""

    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get one; empty: all of them but the head."""


class StartConfig(Frozen):
    """Where the weights come from."""

    weights: Location = Field(default="", max_length=2000)
    """Folder of weights in Hugging Face format, as a path or URL (file://, s3://), or `hf://<owner>/<name>`; empty:
    from scratch. Safetensors only."""

    revision: str = Field(default="", max_length=200)
    """Commit, tag or branch of `hf://` weights; empty: the newest. Whichever it is, the digest of what was read is
    kept."""

    lora: LoraConfig | None = None
    """Train adapters only; null: all weights."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.weights.startswith("hf://") and not _REPOSITORY.fullmatch(self.weights):
            raise ValueError(f"weights {self.weights} must be hf://<owner>/<name>; a commit goes into `revision`")
        if self.revision and not self.weights.startswith("hf://"):
            raise ValueError(f"revision {self.revision} is of hf:// weights, got weights {self.weights!r}; remove it")
        if self.lora and not self.weights:
            raise ValueError("lora needs `weights` to adapt: random ones are not worth keeping; name some")
        return self


_REPOSITORY = re.compile(r"hf://[\w.-]+/[\w.-]+")
_CHECKPOINT = re.compile(r"checkpoints/[\w-]+/step-(?P<step>\d{8,})")


class StabilityConfig(Frozen):
    """What happens at a loss or gradient that is not finite, and at a loss that jumps.

    `skip` takes no step from that batch; `rewind` goes back to the newest checkpoint and leaves out the data from there
    to the incident; `stop` ends the training.
    """

    non_finite: Literal["stop", "skip", "rewind"] = "stop"
    """At a loss or gradient norm that is not finite."""

    spike: Literal["ignore", "stop", "skip", "rewind"] = "ignore"
    """At a loss above `spike_factor` times the median of the last `window_steps` steps."""

    spike_factor: float = Field(default=2.0, gt=1.0)
    """How far above the median a loss is a spike."""

    window_steps: int = Field(default=50, ge=5)
    """Steps of which the median is taken."""

    max_incidents: int = Field(default=10, ge=1)
    """More incidents than this stop the training."""


class WatchdogConfig(Frozen):
    """When ranks count as hung: no step for `factor` times the median step, and at least `min_seconds`.

    Where ranks wait for each other all stand still then; with `diloco` each is judged by itself.
    """

    factor: float = Field(default=20.0, gt=1.0)
    """Times the median step."""

    min_seconds: float = Field(default=60.0, gt=0.0)
    """Never sooner than this."""

    start_seconds: float = Field(default=1800.0, gt=0.0)
    """Longest time to the first step: loading, compiling, meeting the other ranks."""


class TrainingConfig(Frozen):
    """One training run."""

    ranks: int = Field(default=1, ge=1, le=1024)
    """Processes of torchrun; one per GPU where there are GPUs."""

    max_steps: int = Field(default=300, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(default=16, ge=1)
    """Sequences per optimizer step over all ranks and accumulation steps."""

    accumulation_steps: int = Field(default=1, ge=1)
    """Forward/backward passes per optimizer step."""

    sequence_length: int = Field(default=256, ge=8)
    """Tokens per sequence."""

    learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    """Peak learning rate."""

    min_learning_rate_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the peak where the cosine ends."""

    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up."""

    weight_decay: float = Field(default=0.1, ge=0.0)
    """AdamW's decoupled weight decay, on matrices only."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's first moment decay."""

    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """AdamW's second moment decay."""

    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest gradient norm; larger ones are scaled down."""

    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Learning rate after the warm-up: `cosine` falls all the way; `wsd` stays, and falls at the end; `constant`
    stays."""

    decay_fraction: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the steps at the end in which `wsd` falls."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto`: bf16 where the machine computes with it natively, else fp32."""

    compile: bool = False
    """Compile the model with `torch.compile`: slower to start, faster steps."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass rather than keep them: less memory, about a third more work."""

    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints: the most that a crash may lose."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept while training."""

    seed: int = Field(default=1, ge=0)
    """Seed of weights and data order."""

    strategy: StrategyConfig = DdpConfig()
    """How ranks share the work: ddp, fsdp, tensor, diloco or parameter_server; or a mapping with its `kind`."""

    start: StartConfig = StartConfig()
    """Where the weights come from."""

    resume_from: str = Field(default="", max_length=200)
    """Checkpoint of another training of the same model to go on from, as its log names it: with other ranks, another
    strategy or rate, say. Empty: begin at `start`."""

    stability: StabilityConfig = StabilityConfig()
    """What happens at a loss that is not finite, or that jumps."""

    watchdog: WatchdogConfig = WatchdogConfig()
    """When ranks count as hung."""

    max_restarts: int = Field(default=0, ge=0)
    """How often torchrun restarts failed ranks before the task itself fails and is retried."""

    price_per_hour: float | None = Field(default=None, ge=0.0)
    """What all ranks together cost per hour, in the currency of your choice; null: no cost is told."""

    @model_validator(mode="after")
    def _ranks_fit_the_strategy(self) -> Self:
        match self.strategy:
            case TensorConfig(tensor_ranks=size) if self.ranks % size:
                raise ValueError(
                    f"ranks {self.ranks} must be a multiple of strategy.tensor_ranks {size}; "
                    f"try ranks {max(1, round(self.ranks / size)) * size}"
                )
            case DilocoConfig(worker_timeout_seconds=seconds) if self.watchdog.min_seconds <= 2 * seconds:
                raise ValueError(
                    f"watchdog.min_seconds {self.watchdog.min_seconds:g} must exceed twice "
                    f"strategy.worker_timeout_seconds {seconds:g}: so long do workers wait for a lost one; "
                    f"try {3 * seconds:g}"
                )
            case ParameterServerConfig() if self.ranks < 2:
                raise ValueError(f"ranks {self.ranks} must be at least 2: a parameter server, and a worker")
            case ParameterServerConfig() if self.precision == "fp16":
                raise ValueError(
                    f"precision {self.precision} scales the loss, on each worker by another factor: not for a "
                    "parameter_server; try bf16"
                )
        return self

    @model_validator(mode="after")
    def _goes_on_from_a_checkpoint(self) -> Self:
        if not self.resume_from:
            return self
        if not (checkpoint := _CHECKPOINT.fullmatch(self.resume_from)):
            raise ValueError(
                f"resume_from {self.resume_from!r} must be a checkpoint in the store, such as "
                "checkpoints/1f2e.../step-00000400: copy it from the log of the training"
            )
        if self.max_steps <= (done := int(checkpoint["step"])):
            raise ValueError(f"max_steps {self.max_steps} must exceed the {done} steps of resume_from; try {2 * done}")
        return self

    @model_validator(mode="after")
    def _strategy_fits_the_start(self) -> Self:
        if self.start.lora and isinstance(self.strategy, TensorConfig):
            raise ValueError("start.lora does not go with strategy tensor, which splits the layers; try strategy fsdp")
        return self

    @model_validator(mode="after")
    def _rewinds_together(self) -> Self:
        if isinstance(self.strategy, DilocoConfig | ParameterServerConfig):
            for field in ("non_finite", "spike"):
                if getattr(self.stability, field) == "rewind":
                    raise ValueError(
                        f"stability.{field} rewind does not go with strategy {self.strategy.kind}, whose ranks hold "
                        "models of their own; try skip or stop"
                    )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        data_ranks = self.data_ranks
        parts = data_ranks * self.accumulation_steps
        if self.batch_size % parts:
            nearest = max(parts, round(self.batch_size / parts) * parts)
            shares = "ranks" if data_ranks == self.ranks else f"shares of the data ({self.strategy.kind})"
            raise ValueError(
                f"batch_size {self.batch_size} must be divisible by {shares} x accumulation_steps = "
                f"{data_ranks} x {self.accumulation_steps}; try {nearest}"
            )
        if self.warmup_steps >= self.max_steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be less than max_steps {self.max_steps}")
        return self

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of ranks, that learn from different data."""
        return self.strategy.data_ranks(self.ranks)
