"""Sections about learning: the architecture, its training, its evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.spec.base import Frozen


class ArchitectureConfig(Frozen):
    """A causal language model as `transformers` builds it."""

    model_type: Literal["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"] = "llama"
    """Architecture family of transformers."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""

    intermediate_size: int = Field(default=384, ge=8)
    """Width of the feed-forward layers."""

    num_layers: int = Field(default=4, ge=1)
    """Decoder layers."""

    num_heads: int = Field(default=4, ge=1)
    """Attention heads."""

    num_key_value_heads: int = Field(default=4, ge=1)
    """Key/value heads (grouped-query attention when fewer than `num_heads`)."""

    context_length: int = Field(default=512, ge=8)
    """Longest sequence, in tokens."""

    tie_embeddings: bool = True
    """Share input and output embeddings."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_heads {self.num_heads}; "
                f"try hidden_size {2 * self.num_heads * max(1, self.hidden_size // (2 * self.num_heads))}"
            )
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        return self


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

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the machine computes with it natively, else fp32."""

    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints: the most that a crash may lose."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept while training."""

    seed: int = Field(default=1, ge=0)
    """Seed of weights and data order."""

    strategy: Literal["ddp"] = "ddp"
    """How ranks share the work."""

    max_restarts: int = Field(default=0, ge=0)
    """How often torchrun restarts failed ranks before the task itself fails and is retried."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.ranks * self.accumulation_steps
        if self.batch_size % parts:
            nearest = max(parts, round(self.batch_size / parts) * parts)
            raise ValueError(
                f"batch_size {self.batch_size} must be divisible by ranks x accumulation_steps = "
                f"{self.ranks} x {self.accumulation_steps}; try {nearest}"
            )
        if self.warmup_steps >= self.max_steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be less than max_steps {self.max_steps}")
        return self


class EvaluationConfig(Frozen):
    """Gates that a candidate must pass before anything is deployed."""

    max_documents: int = Field(default=0, ge=0)
    """Documents of the validation split that are scored; 0: all."""

    bootstrap_resamples: int = Field(default=1000, ge=100)
    """Resamples of documents for intervals."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of every interval."""

    max_perplexity_ratio: float = Field(default=0.5, gt=0.0)
    """Gate: perplexity over the unigram baseline's, upper end of the interval."""

    max_perplexity: float | None = Field(default=None, gt=1.0)
    """Gate: absolute perplexity, upper end of the interval; null: none."""

    noninferiority_margin: float = Field(default=0.02, ge=0.0)
    """Gate: bits per byte by which a candidate may be worse than the champion, upper end of the paired interval."""

    sample_prompts: tuple[str, ...] = ("Return the", "This module", "Raise an exception if")
    """Prompts of the samples in the report."""

    sample_tokens: int = Field(default=48, ge=1, le=2048)
    """Tokens per sample."""

    seed: int = Field(default=0, ge=0)
    """Seed of resampling and samples."""
