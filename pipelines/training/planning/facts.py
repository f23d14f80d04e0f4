"""What a plan says: sizes, memory, time and cost; and what they came to in the end."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Self

from pydantic import ValidationError

from pipelines.artifacts import canonical_json
from pipelines.spec import ArchitectureConfig, Frozen, TrainingConfig
from pipelines.store import Store


class Sizes(Frozen):
    """What a model and one of its micro-batches amount to on one rank that holds all of it."""

    num_parameters: int
    num_trained_parameters: int
    largest_layer_parameters: int
    """Of one decoder layer, the unit in which sharded weights are gathered."""

    outer_parameters: int
    """Outside of the decoder layers: embeddings, head, last norm."""

    pinned_shard_bytes: int
    """Of a rank's share of the weights where each lies in pinned memory of its own, as shards do on the host."""

    flops_per_token: int
    compute_bytes: int
    """Of a number in a matrix product."""

    activation_bytes: int
    """Most that forward and backward pass of a micro-batch need beside weights, gradients and optimizer state."""


class RankMemory(Frozen):
    """Bytes that one rank needs of a memory, at the moment when they are most."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    exchange: int = 0
    """What the strategy needs to work together: gathered layers, or copies of the weights."""

    activations: int = 0
    checkpoint: int = 0
    """This rank's file, which is composed in memory."""

    process: int = 0
    """Libraries and their contexts, before there is a model."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, part) for part in RankMemory.model_fields)

    def __add__(self, other: RankMemory) -> RankMemory:
        """Return what both need, part by part."""
        return RankMemory(**{part: getattr(self, part) + getattr(other, part) for part in RankMemory.model_fields})


class Ledger(Frozen):
    """What one rank needs of a memory, and what it has of it on this machine."""

    name: str
    """Whose memory it is."""

    needed: RankMemory
    available_bytes: int
    """Of its GPU, or its share of the host's memory, which all ranks of a machine have together."""

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.needed.total <= self.available_bytes


class Range(Frozen):
    """An estimate with its error bars: as if all steps were like the fastest of the calibration, or the slowest."""

    value: float
    low: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> Range:
        """Return this range on another scale."""
        return Range(value=self.value * factor + plus, low=self.low * factor + plus, high=self.high * factor + plus)


class Calibration(Frozen):
    """What a few steps on this machine took."""

    num_steps: int
    step_seconds: Range
    """Mean of short blocks of steps, the fastest block and the slowest."""

    save_seconds: float
    """How much longer a block takes in which a checkpoint begins."""

    fixed_seconds: float
    """From the start of the processes to the first step, and from the last step to the model's files."""

    peak_memory_bytes: int
    """Of the rank that needed most."""

    matmul_rate: float
    """Operations per second of a large matrix product, all ranks together."""


class Comparison(Frozen):
    """What was planned, and what it came to."""

    planned_seconds: Range
    seconds: float
    planned_memory_bytes: int
    memory_bytes: int
    """Of the rank that needed most, where it computes: on its GPU, or on the host."""

    planned_cost: Range | None
    cost: float | None


class Plan(Frozen):
    """What a training will take."""

    total_tokens: int
    sizes: Sizes
    device: Ledger | None
    """Of a rank's GPU; None on a machine without GPUs, where everything is on the host."""

    host: Ledger
    checkpoint_bytes: int
    calibration: Calibration | None
    seconds: Range | None
    """Of the whole training; None without a calibration."""

    cost: Range | None
    """None without a price."""

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The memories that a rank needs, the one that it computes in first."""
        return (self.host,) if self.device is None else (self.device, self.host)

    @property
    def fits(self) -> bool:
        """Whether there is enough of each memory."""
        return all(ledger.fits for ledger in self.ledgers)

    def compare(self, *, seconds: float, memory_bytes: int, price_per_hour: float | None) -> Comparison | None:
        """Compare this plan with what it came to; None when it told no time."""
        if self.seconds is None:
            return None
        return Comparison(
            planned_seconds=self.seconds,
            seconds=seconds,
            planned_memory_bytes=self.ledgers[0].needed.total,
            memory_bytes=memory_bytes,
            planned_cost=self.cost,
            cost=None if price_per_hour is None else seconds / 3600 * price_per_hour,
        )

    @classmethod
    def find(cls, store: Store, architecture: ArchitectureConfig, training: TrainingConfig) -> Self | None:
        """Return the newest plan of a training, or None when none was made that can be read."""
        data = store.read(_place(architecture, training))
        with contextlib.suppress(ValidationError):  # another release made it
            return None if data is None else cls.model_validate_json(data)
        return None

    def keep(self, store: Store, architecture: ArchitectureConfig, training: TrainingConfig) -> None:
        """Leave this plan for the training that it is about."""
        store.put(_place(architecture, training), canonical_json(self.model_dump(mode="json")))


def _place(architecture: ArchitectureConfig, training: TrainingConfig) -> str:
    """Return where the plan of a training is kept: another setting is another training, another price is not."""
    settings = [architecture.model_dump(mode="json"), training.model_dump(mode="json", exclude={"price_per_hour"})]
    return f"plans/{hashlib.sha256(canonical_json(settings)).hexdigest()}.json"
