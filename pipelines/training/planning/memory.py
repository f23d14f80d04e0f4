"""The memory of one rank, by strategy: what it holds all the time, and what a step takes on top.

Two ledgers: of its GPU, and of the host, where strategies keep what they exchange, offloaded shards lie, and files of
checkpoints are composed. Without GPUs everything is on the host.
"""

from __future__ import annotations

from pipelines.spec import (
    DilocoConfig,
    FsdpConfig,
    ParameterServerConfig,
    StrategyConfig,
    TensorConfig,
    TrainingConfig,
)
from pipelines.training.checkpoints.staging import staged_bytes
from pipelines.training.planning.facts import RankMemory, Sizes

FLOAT = 4
"""Bytes of a weight, a gradient, and each of AdamW's two moments, whatever the precision of matrix products."""

PROCESS_BYTES = 450 * 2**20
"""What a rank takes without a model, on a machine without GPUs: torch and its libraries."""

GPU_PROCESS_BYTES = 2 * 2**30
"""The same of the host's memory with a GPU, whose libraries are larger: estimated, from above. The GPU's memory holds
none of that, only a context, of which torch's allocator knows nothing."""

_GATHERED_LAYERS = 2
"""Decoder layers that are whole at once where weights are sharded: the one that computes, and the next."""

_REMEMBERED = 3
"""Vectors that a worker of `diloco` saves: the shared weights, their momentum, and what was sent."""

_EXCHANGED = 8
"""Vectors that it has at most: besides the first three the last sums, their mean, and three to move its weights by."""

_EXCHANGED_BY_TWO = 10
"""The same between two: besides the first three how far this one went, as a message too, both sides' messages, each
once more inside gloo, and the last sums."""

_SERVED = 4
"""Vectors of a parameter server: the gradient that arrives, their sum, and the weights, as a message too."""


def memory_per_rank(sizes: Sizes, training: TrainingConfig, *, on_gpu: bool) -> tuple[RankMemory | None, RankMemory]:
    """Return what the rank that needs most needs, from above: what is freed in between counts as if it were not.

    Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, section 3.

    Args:
        sizes: of the model and of a micro-batch on a rank that holds all of it.
        training: strategy and ranks.
        on_gpu: whether a rank has a GPU.

    Returns:
        Of its GPU, None without one, and of the host.
    """
    computing = RankMemory(exchange=_gathered(sizes, training.strategy), activations=sizes.activation_bytes)
    exchange = _vectors(training) * FLOAT * sizes.num_trained_parameters
    file = _largest_file(sizes, training)
    if not on_gpu:
        beside = RankMemory(exchange=exchange, checkpoint=file, process=PROCESS_BYTES)
        return None, _held(sizes, training) + computing + beside
    if _offloads(training.strategy):
        beside = RankMemory(exchange=exchange, checkpoint=file, process=GPU_PROCESS_BYTES)
        return computing, _held_pinned(sizes, training) + beside
    beside = RankMemory(exchange=exchange, checkpoint=staged_bytes(file), process=GPU_PROCESS_BYTES)
    return _held(sizes, training) + computing, beside


def checkpoint_bytes(sizes: Sizes, training: TrainingConfig) -> int:
    """Return the size of one checkpoint: weights that are trained and moments, of each rank that has its own."""
    match training.strategy:
        case DilocoConfig():
            return training.ranks * _largest_file(sizes, training)
        case ParameterServerConfig():
            return _state(sizes) + (training.ranks - 1) * FLOAT * sizes.num_trained_parameters
        case _:
            return _state(sizes)


def num_shards(training: TrainingConfig) -> int:
    """Return into how many parts weights, gradients and moments are divided."""
    return training.ranks if isinstance(training.strategy, FsdpConfig | TensorConfig) else 1


def _state(sizes: Sizes) -> int:
    return 3 * FLOAT * sizes.num_trained_parameters


def _largest_file(sizes: Sizes, training: TrainingConfig) -> int:
    """Return the size of the largest file of a checkpoint; ranks that hold one model together share the work."""
    match training.strategy:
        case DilocoConfig():
            return _state(sizes) + _REMEMBERED * FLOAT * sizes.num_trained_parameters
        case ParameterServerConfig():
            return _state(sizes)
        case _:
            return _state(sizes) // training.ranks


def _held(sizes: Sizes, training: TrainingConfig) -> RankMemory:
    """Return what a rank holds of the model."""
    shards = num_shards(training)
    trained = sizes.num_trained_parameters
    return RankMemory(
        weights=FLOAT * sizes.num_parameters // shards,
        gradients=FLOAT * trained // shards,
        optimizer=2 * FLOAT * trained // shards,
    )


def _held_pinned(sizes: Sizes, training: TrainingConfig) -> RankMemory:
    """Return the same where weights and gradients are pinned one by one."""
    held = _held(sizes, training)
    pinned = {"weights": sizes.pinned_shard_bytes, "gradients": min(sizes.pinned_shard_bytes, 2 * held.gradients)}
    return held.model_copy(update=pinned)


def _offloads(strategy: StrategyConfig) -> bool:
    return isinstance(strategy, FsdpConfig | TensorConfig) and strategy.cpu_offload


def _gathered(sizes: Sizes, strategy: StrategyConfig) -> int:
    """Return what is whole for a while, where the rank computes."""
    match strategy:
        case FsdpConfig(reshard_after_forward=reshard) | TensorConfig(reshard_after_forward=reshard):
            layers = _GATHERED_LAYERS * sizes.largest_layer_parameters
            gathered = layers + sizes.outer_parameters if reshard else sizes.num_parameters
            parts = strategy.tensor_ranks if isinstance(strategy, TensorConfig) else 1
            largest_gradient = FLOAT * max(sizes.largest_layer_parameters, sizes.outer_parameters)
            return (gathered * sizes.compute_bytes + largest_gradient) // parts
        case _:
            return 0


def _vectors(training: TrainingConfig) -> int:
    """Return how many times all trained weights lie on the host to be exchanged.

    On a GPU one more is made at a time, when gradients or moments are not there: they are as large.
    """
    match training.strategy:
        case DilocoConfig():
            return _EXCHANGED_BY_TWO if training.ranks == 2 else _EXCHANGED
        case ParameterServerConfig():
            return _SERVED
        case _:
            return 0
