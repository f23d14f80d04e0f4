"""Sections about what is learnt: the architecture, and the gates that it must pass."""

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

    @property
    def divided_sizes(self) -> dict[str, int]:
        """What tensor parallel ranks divide among themselves, by its name in a spec."""
        names = ("num_heads", "num_key_value_heads", "intermediate_size")
        return {f"architecture.{name}": getattr(self, name) for name in names}


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
