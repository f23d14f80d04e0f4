"""What a plan says: sizes, memory, time and cost; and what they came to in the end."""

from __future__ import annotations

import hashlib
from typing import Self

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

    flops_per_token: int
    compute_bytes: int
    """Of a number in a matrix product."""

    activation_bytes: int
    """Most that forward and backward pass of a micro-batch need beside weights, gradients and optimizer state."""


class RankMemory(Frozen):
    """Bytes of one rank, at the moment when they are most."""

    weights: int
    gradients: int
    optimizer: int
    exchange: int
    """What the strategy needs to work together: gathered layers, or copies of the weights."""

    activations: int
    process: int
    """Libraries and their contexts, before there is a model."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.exchange + self.activations + self.process


class Device(Frozen):
    """What one rank has on this machine."""

    name: str
    memory_bytes: int
    """Of its GPU, or its share of the host's memory."""


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
    """Of the rank that needed most."""

    planned_cost: Range | None
    cost: float | None


class Plan(Frozen):
    """What a training will take."""

    total_tokens: int
    sizes: Sizes
    memory: RankMemory
    device: Device
    checkpoint_bytes: int
    calibration: Calibration | None
    seconds: Range | None
    """Of the whole training; None without a calibration."""

    cost: Range | None
    """None without a price."""

    @property
    def fits(self) -> bool:
        """Whether a rank's device has the memory."""
        return self.memory.total <= self.device.memory_bytes

    def compare(self, *, seconds: float, memory_bytes: int, price_per_hour: float | None) -> Comparison | None:
        """Compare this plan with what it came to; None when it told no time."""
        if self.seconds is None:
            return None
        return Comparison(
            planned_seconds=self.seconds,
            seconds=seconds,
            planned_memory_bytes=self.memory.total,
            memory_bytes=memory_bytes,
            planned_cost=self.cost,
            cost=None if price_per_hour is None else seconds / 3600 * price_per_hour,
        )

    @classmethod
    def find(cls, store: Store, architecture: ArchitectureConfig, training: TrainingConfig) -> Self | None:
        """Return the newest plan of a training, or None when none was made."""
        data = store.read(_place(architecture, training))
        return None if data is None else cls.model_validate_json(data)

    def keep(self, store: Store, architecture: ArchitectureConfig, training: TrainingConfig) -> None:
        """Leave this plan for the training that it is about."""
        store.put(_place(architecture, training), canonical_json(self.model_dump(mode="json")))


def _place(architecture: ArchitectureConfig, training: TrainingConfig) -> str:
    """Return where the plan of a training is kept: another setting is another training, another price is not."""
    settings = [architecture.model_dump(mode="json"), training.model_dump(mode="json", exclude={"price_per_hour"})]
    return f"plans/{hashlib.sha256(canonical_json(settings)).hexdigest()}.json"
