"""Plan a training: sizes and memory from its spec alone, time and cost from a few steps on this machine."""

from __future__ import annotations

import os

import psutil
import torch

from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.nodes import Place
from pipelines.training.planning.calibration import calibrate
from pipelines.training.planning.estimate import timed
from pipelines.training.planning.facts import Device, Plan
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
    sizes = measure_sizes(architecture, training, vocabulary_size)
    device = find_device(training)
    plan = Plan(
        total_tokens=training.max_steps * training.batch_size * training.sequence_length,
        sizes=sizes,
        memory=memory_per_rank(sizes, training, on_gpu=torch.cuda.is_available()),
        device=device,
        checkpoint_bytes=checkpoint_bytes(sizes, training),
        calibration=None,
        seconds=None,
        cost=None,
    )
    if not (is_calibrated and plan.fits):
        return plan
    return timed(plan, calibrate(architecture, training, vocabulary_size), training)


def find_device(training: TrainingConfig) -> Device:
    """Return what each of this machine's ranks has: a GPU, or its share of the host's memory."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Device(name=found.name, memory_bytes=found.total_memory - _CONTEXT_BYTES)
    limit = MemoryGroup.of_this_process().limit_bytes()
    memory = min(psutil.virtual_memory().available, limit or psutil.virtual_memory().total)
    ranks = Place.of(os.environ).local_ranks(training.ranks)
    return Device(name="this machine", memory_bytes=memory // ranks)
