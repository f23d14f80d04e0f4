"""How ranks share a training: one class per strategy, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipelines.spec.base import Frozen


class DdpConfig(Frozen):
    """Synchronous data parallel: every rank holds the model, gradients are averaged at every step."""

    kind: Literal["ddp"] = "ddp"
    """Its name."""

    def data_ranks(self, ranks: int) -> int:
        """Return how many ranks learn from different data."""
        return ranks


class FsdpConfig(Frozen):
    """Fully sharded data parallel: each rank holds a part of weights, gradients and optimizer state."""

    kind: Literal["fsdp"] = "fsdp"
    """Its name."""

    cpu_offload: bool = False
    """Keep shards and optimizer state in the host's memory between uses; without GPUs they are there anyway."""

    reshard_after_forward: bool = True
    """Give a layer's gathered weights back after its forward pass: less memory, more communication."""

    def data_ranks(self, ranks: int) -> int:
        """Return how many ranks learn from different data."""
        return ranks


class TensorConfig(Frozen):
    """Tensor parallel within groups of ranks, fully sharded data parallel across the groups."""

    kind: Literal["tensor"] = "tensor"
    """Its name."""

    tensor_ranks: int = Field(default=2, ge=2)
    """Ranks that share each matrix: heads, feed-forward width, vocabulary and ranks must be multiples of it."""

    cpu_offload: bool = False
    """Keep shards and optimizer state in the host's memory between uses; without GPUs they are there anyway."""

    reshard_after_forward: bool = True
    """Give a layer's gathered weights back after its forward pass: less memory, more communication."""

    def data_ranks(self, ranks: int) -> int:
        """Return how many groups of ranks learn from different data."""
        return ranks // self.tensor_ranks

    def misfit(self, sizes: Mapping[str, int]) -> str | None:
        """Return which of a model's sizes the ranks of a group cannot share equally, and what they could; else None."""
        for field, size in sizes.items():
            if size % self.tensor_ranks:
                fitting = (n for n in range(self.tensor_ranks, 1, -1) if not any(each % n for each in sizes.values()))
                way_out = f"tensor_ranks {found}" if (found := next(fitting, 0)) else "strategy fsdp"
                return (
                    f"{field} {size} must be a multiple of training.strategy.tensor_ranks {self.tensor_ranks}; try "
                    f"{field} {size + -size % self.tensor_ranks}, or {way_out}"
                )
        return None


class DilocoConfig(Frozen):
    """Low communication: each worker takes `inner_steps` of its own, then their changes are averaged and applied.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023. Outer learning rate 1
    without momentum is local SGD.
    """

    kind: Literal["diloco"] = "diloco"
    """Its name."""

    inner_steps: int = Field(default=30, ge=1)
    """Steps of AdamW between two exchanges. The more, the less a slow link costs, and the further workers drift apart:
    as many as make the wait for an exchange a small share of a round."""

    outer_learning_rate: float = Field(default=0.7, gt=0.0, le=2.0)
    """Learning rate of the outer step."""

    outer_momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Nesterov momentum of the outer step. The paper's 0.9 goes on from weights that were trained before; from scratch,
    over some dozens of rounds, it overshoots. Small batches and short rounds learn most with 0 and a rate of 1."""

    overlap_steps: int = Field(default=10, ge=0)
    """Inner steps that are taken while an exchange is under way, before its outcome is used; 0: nobody goes on until it
    is there. The more steps, the slower a link it takes no time on, and the older the outcome, which costs loss: no
    more than an exchange takes, and none where longer rounds do as well."""

    worker_timeout_seconds: float = Field(default=20.0, gt=0.0)
    """How long the others wait for a slow worker before they go on without it; in all, at most twice as long."""

    @model_validator(mode="after")
    def _outcome_is_used_within_a_round(self) -> Self:
        if self.overlap_steps > self.inner_steps:
            raise ValueError(
                f"overlap_steps {self.overlap_steps} must not exceed inner_steps {self.inner_steps}: an exchange ends "
                f"before the next begins; try {self.inner_steps // 3}"
            )
        return self

    def data_ranks(self, ranks: int) -> int:
        """Return how many ranks learn from different data."""
        return ranks


class ParameterServerConfig(Frozen):
    """Asynchronous SGD: rank 0 holds the weights; the others fetch them, and send gradients when they have some.

    Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", 2013.
    """

    kind: Literal["parameter_server"] = "parameter_server"
    """Its name."""

    max_staleness: int = Field(default=2, ge=0)
    """By how many steps a worker may be ahead of the slowest; 0: in step."""

    def data_ranks(self, ranks: int) -> int:
        """Return how many workers there are."""
        return max(1, ranks - 1)


def _named(value: Any) -> Any:
    """Let the name alone stand for the strategy with its defaults."""
    return {"kind": value} if isinstance(value, str) else value


_Kind = DdpConfig | FsdpConfig | TensorConfig | DilocoConfig | ParameterServerConfig
_Name = Literal["ddp", "fsdp", "tensor", "diloco", "parameter_server"]

StrategyConfig = Annotated[
    _Kind, Field(discriminator="kind"), BeforeValidator(_named, json_schema_input_type=_Name | _Kind)
]
"""A strategy: its name, or a mapping of its name (`kind`) and settings."""
