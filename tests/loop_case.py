"""A tiny training in this process: the loop of one rank, on tokens that repeat, so that there is something to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.loop import Training
from pipelines.training.strategies.single import SingleRank

VOCABULARY = 50
ARCHITECTURE = ArchitectureConfig(
    hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_key_value_heads=2, context_length=64
)


def write_tokens(folder: Path) -> Path:
    """Write three documents."""
    documents = [EncodedDocument(id=str(number), tokens=np.arange(700) % (7 + number) + 1) for number in range(3)]
    write_shards(folder, {"train": documents}, vocabulary_size=VOCABULARY, eos_id=0)
    return folder


def open_training(tokens: Path, folder: Path, device: str = "cpu", **training: Any) -> Training:
    """Return a training of a tiny model, ready to run; `training` are the spec's keys."""
    settings = {"batch_size": 6, "sequence_length": 16, "max_steps": 24, "warmup_steps": 2, "learning_rate": 0.01}
    job = TrainingJob(
        architecture=ARCHITECTURE,
        training=TrainingConfig.model_validate({**settings, "precision": "fp32", **training}),
        tokens=tokens,
        tokenizer=tokens,
        workspace=folder / "work",
        store_url=f"file://{folder / 'store'}",
        checkpoints="checkpoints/tiny",
    )
    job.save()
    return Training(job, SingleRank(torch.device(device)))
