"""How ranks share a training: one class per strategy, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

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
    """Keep shards and optimizer state in the host's memory between uses."""

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
    """Ranks that share each matrix; the heads must divide by it, and the ranks too."""

    cpu_offload: bool = False
    """Keep shards and optimizer state in the host's memory between uses."""

    reshard_after_forward: bool = True
    """Give a layer's gathered weights back after its forward pass: less memory, more communication."""

    def data_ranks(self, ranks: int) -> int:
        """Return how many groups of ranks learn from different data."""
        return ranks // self.tensor_ranks


class DilocoConfig(Frozen):
    """Low communication: each worker takes `inner_steps` of its own, then their changes are averaged and applied.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023. Outer learning rate 1
    without momentum is local SGD.
    """

    kind: Literal["diloco"] = "diloco"
    """Its name."""

    inner_steps: int = Field(default=30, ge=1)
    """Steps of AdamW between two exchanges."""

    outer_learning_rate: float = Field(default=0.7, gt=0.0, le=2.0)
    """Learning rate of the outer step."""

    outer_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Nesterov momentum of the outer step."""

    overlap: bool = True
    """Exchange while the next inner steps are taken; what was exchanged is applied one round later."""

    worker_timeout_seconds: float = Field(default=60.0, gt=0.0)
    """How long the others wait for a slow worker before they go on without it."""

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


StrategyConfig = Annotated[
    DdpConfig | FsdpConfig | TensorConfig | DilocoConfig | ParameterServerConfig,
    Field(discriminator="kind"),
    BeforeValidator(_named, json_schema_input_type=Any),
]
"""A strategy: its name, or a mapping of its name (`kind`) and settings."""
