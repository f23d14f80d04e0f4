"""Plan a training: sizes and memory from its spec alone, time and cost from a few steps on this machine."""

from __future__ import annotations

import os

import psutil
import torch

from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.nodes import Place
from pipelines.training.planning.calibration import calibrate
from pipelines.training.planning.estimate import timed
from pipelines.training.planning.facts import Ledger, Plan, RankMemory
from pipelines.training.planning.memory import checkpoint_bytes, memory_per_rank
from pipelines.training.planning.sizes import measure_sizes
from pipelines.training.supervision.out_of_memory import MemoryGroup

_CONTEXT_BYTES = 600 * 2**20
"""Of a GPU's memory, left to its context."""


def make_plan(
    architecture: ArchitectureConfig, training: TrainingConfig, vocabulary_size: int, *, is_calibrated: bool
) -> Plan:
    """Return what a training will take; nothing is calibrated that does not fit.

    Args:
        architecture: of the model.
        training: how it is trained.
        vocabulary_size: entries of its tokenizer.
        is_calibrated: whether to take a few steps, for time and cost.

    Raises:
        BadInput: when the architecture cannot be built.
        SlipwayError: whatever stops the calibration.
    """
    on_gpu = torch.cuda.is_available()
    sizes = measure_sizes(architecture, training, vocabulary_size, on_gpu=on_gpu)
    device, host = memory_per_rank(sizes, training, on_gpu=on_gpu)
    plan = Plan(
        total_tokens=training.max_steps * training.batch_size * training.sequence_length,
        sizes=sizes,
        device=None if device is None else device_ledger(device),
        host=host_ledger(host, training),
        checkpoint_bytes=checkpoint_bytes(sizes, training),
        calibration=None,
        seconds=None,
        cost=None,
    )
    if not (is_calibrated and plan.fits):
        return plan
    return timed(plan, calibrate(architecture, training, vocabulary_size), training)


def device_ledger(needed: RankMemory) -> Ledger:
    """Set what a rank needs against what its GPU has."""
    found = torch.cuda.get_device_properties(0)
    return Ledger(name=found.name, needed=needed, available_bytes=found.total_memory - _CONTEXT_BYTES)


def host_ledger(needed: RankMemory, training: TrainingConfig) -> Ledger:
    """Set what a rank needs against its share of this machine's memory."""
    memory = psutil.virtual_memory()
    available = min(memory.available, MemoryGroup.of_this_process().limit_bytes() or memory.total)
    ranks = Place.of(os.environ).local_ranks(training.ranks)
    return Ledger(name="this machine", needed=needed, available_bytes=available // ranks)
