"""The memory of one rank, by strategy: what it holds all the time, and what a step takes on top."""

from __future__ import annotations

from pipelines.spec import (
    DilocoConfig,
    FsdpConfig,
    ParameterServerConfig,
    StrategyConfig,
    TensorConfig,
    TrainingConfig,
)
from pipelines.training.planning.facts import RankMemory, Sizes

FLOAT = 4
"""Bytes of a weight, a gradient, and each of AdamW's two moments, whatever the precision of matrix products."""

PROCESS_BYTES = 450 * 2**20
"""What a rank takes without a model, on a machine without GPUs: torch and its libraries. A GPU's memory holds none of
that, only a context, of which torch's allocator knows nothing."""

_GATHERED_LAYERS = 2
"""Decoder layers that are whole at once where weights are sharded: the one that computes, and the next."""

_SAVED_COPIES = 3
"""Weights beside a worker's own in a checkpoint of `diloco`: the shared ones, their momentum, and what was sent."""

_COPIES = _SAVED_COPIES + 2
"""Those that a worker holds: also how far it and the shared ones went, and what came back last."""

_COPIES_ON_THE_WAY = 3
"""More of them while workers exchange theirs: the message, and between two both sides'."""


def memory_per_rank(sizes: Sizes, training: TrainingConfig, *, on_gpu: bool) -> RankMemory:
    """Return what the rank that needs most needs, from above: what is freed in between counts as if it were not.

    Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, section 3.

    Args:
        sizes: of the model and of a micro-batch on a rank that holds all of it.
        training: strategy and ranks.
        on_gpu: whether a rank has a GPU, and may keep its shards outside of it.
    """
    shards = _shards(training)
    trained = sizes.num_trained_parameters
    offloads = isinstance(training.strategy, FsdpConfig | TensorConfig) and training.strategy.cpu_offload
    kept = 0 if offloads and on_gpu else 1
    return RankMemory(
        weights=kept * FLOAT * sizes.num_parameters // shards,
        gradients=kept * FLOAT * trained // shards,
        optimizer=kept * 2 * FLOAT * trained // shards,
        exchange=_exchange(sizes, training.strategy),
        activations=sizes.activation_bytes,
        process=0 if on_gpu else PROCESS_BYTES,
    )


def checkpoint_bytes(sizes: Sizes, training: TrainingConfig) -> int:
    """Return the size of one checkpoint: weights and moments; of `diloco`, all workers' and what they share."""
    match training.strategy:
        case DilocoConfig():
            return training.ranks * (_state(sizes) + _SAVED_COPIES * FLOAT * sizes.num_trained_parameters)
        case _:
            return _state(sizes)


def _state(sizes: Sizes) -> int:
    return FLOAT * (sizes.num_parameters + 2 * sizes.num_trained_parameters)


def _shards(training: TrainingConfig) -> int:
    """Return into how many parts weights, gradients and moments are divided."""
    match training.strategy:
        case FsdpConfig() | TensorConfig():
            return training.ranks
        case _:
            return 1


def _exchange(sizes: Sizes, strategy: StrategyConfig) -> int:
    match strategy:
        case FsdpConfig(reshard_after_forward=reshard) | TensorConfig(reshard_after_forward=reshard):
            layers = _GATHERED_LAYERS * sizes.largest_layer_parameters
            gathered = layers + sizes.outer_parameters if reshard else sizes.num_parameters
            parts = strategy.tensor_ranks if isinstance(strategy, TensorConfig) else 1
            largest_gradient = FLOAT * max(sizes.largest_layer_parameters, sizes.outer_parameters)
            return (gathered * sizes.compute_bytes + largest_gradient) // parts
        case DilocoConfig():
            return (_COPIES + _COPIES_ON_THE_WAY) * FLOAT * sizes.num_trained_parameters
        case ParameterServerConfig():
            return 2 * FLOAT * sizes.num_parameters
        case _:
            return 0
