"""A training without a framework: the models, the data and the bare loops that frameworks are measured against.

A bare loop does what every training does, and nothing else: forward and backward pass, clipping by the norm, a cosine
schedule, fused AdamW. The plain one is written as tutorials have it; the tuned one calls torch as cheaply as Slipway
does, so that what Slipway adds to it is what is around the mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.loss import NextTokenLoss
from pipelines.training.model import build_model
from pipelines.training.optimizer import build_optimizer

CPU = torch.device("cpu")
NUM_TOKENS = 200_000


@dataclass(frozen=True)
class Size:
    """A model, its batch, and how long to look."""

    architecture: ArchitectureConfig
    vocabulary_size: int
    batch_size: int
    sequence_length: int
    warm_up_steps: int
    round_steps: int
    """Steps whose mean is one measurement."""


SIZES: Mapping[str, Size] = {
    "small": Size(
        ArchitectureConfig(
            hidden_size=16, intermediate_size=32, num_layers=1, num_heads=1, num_key_value_heads=1, context_length=16
        ),
        vocabulary_size=64,
        batch_size=4,
        sequence_length=16,
        warm_up_steps=100,
        round_steps=200,
    ),
    "large": Size(ArchitectureConfig(hidden_size=128), 2048, 4, 128, warm_up_steps=4, round_steps=8),
}


def make_job(folder: Path, size: Size, rounds: int) -> TrainingJob:
    """Lay out a training on random tokens that saves only at its end, a few steps after the last round's."""
    tokens = np.random.default_rng(0).integers(1, size.vocabulary_size, NUM_TOKENS)
    document = EncodedDocument(id="all", tokens=tokens)
    write_shards(folder / "tokens", {"train": [document]}, vocabulary_size=size.vocabulary_size, eos_id=0)
    steps = size.warm_up_steps + rounds * size.round_steps + 2
    job = TrainingJob(
        architecture=size.architecture,
        training=TrainingConfig(
            max_steps=steps,
            warmup_steps=1,
            batch_size=size.batch_size,
            sequence_length=size.sequence_length,
            checkpoint_every_steps=steps,
            precision="fp32",
        ),
        tokens=folder / "tokens",
        tokenizer=folder,
        workspace=folder / "work",
        store_url=f"file://{folder / 'store'}",
        checkpoints="checkpoints/bench",
    )
    job.save()
    return job


def make_module(job: TrainingJob, size: Size) -> NextTokenLoss:
    """Return the model with its loss."""
    return NextTokenLoss(build_model(job.architecture, vocabulary_size=size.vocabulary_size, eos_id=0, seed=1))


def random_windows(job: TrainingJob, size: Size) -> torch.Tensor:
    """Return enough windows for all steps, shape (windows, sequence_length + 1)."""
    shape = (job.training.max_steps * size.batch_size, size.sequence_length + 1)
    return torch.from_numpy(np.random.default_rng(1).integers(1, size.vocabulary_size, shape))


Finish = Callable[[], None]
"""From gradients to new weights, and no gradients."""


def plain(module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> Finish:
    """Finish a step as tutorials have it."""

    def finish() -> None:
        nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return finish


def tuned(module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> Finish:
    """Finish a step as Slipway does: the parameters are looked for once, and clipped without a loop in Python."""
    parameters = list(module.parameters())

    def finish() -> None:
        nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    return finish


BARE_LOOPS: Mapping[str, Callable[[nn.Module, torch.optim.Optimizer, float], Finish]] = {"plain": plain, "tuned": tuned}


def bare_steps(job: TrainingJob, size: Size, loop: str = "plain") -> Iterator[None]:
    """Take the steps of a training, one each time that the next is asked for."""
    module = make_module(job, size)
    optimizer = build_optimizer(module, job.training, CPU)
    finish = BARE_LOOPS[loop](module, optimizer, job.training.clip_norm)
    peak, num_steps = job.training.learning_rate, job.training.max_steps
    for step, batch in enumerate(random_windows(job, size).split(size.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = peak * (0.55 + 0.45 * math.cos(math.pi * step / num_steps))
        module(batch).backward()
        finish()
        yield
