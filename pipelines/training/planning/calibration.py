"""A few steps of a training on this machine: the same processes, strategy and loop, on tokens that mean nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.determinism import read_records
from pipelines.training.export import TOKENIZER_FILES
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import read_metrics
from pipelines.training.model import build_model
from pipelines.training.planning.estimate import BLOCK_STEPS, shortened, summarise
from pipelines.training.planning.facts import Calibration
from pipelines.training.supervision.supervise import supervise


def calibrate(architecture: ArchitectureConfig, training: TrainingConfig, vocabulary_size: int) -> Calibration:
    """Take some steps as the spec asks for, and return what they took.

    Raises:
        SlipwayError: whatever stops the training itself.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-plan-") as name:
        job = _make_job(Path(name), architecture, training, vocabulary_size)
        started = time.monotonic()
        supervise(job, lambda **_: None)
        seconds = time.monotonic() - started
        records = read_records(job)
        return summarise(
            read_metrics(job.metrics_file),
            seconds=seconds,
            peak_memory_bytes=max(record.peak_memory_bytes for record in records),
            matmul_rate=statistics.fmean(record.matmul_rate for record in records) * training.ranks,
        )


def _make_job(
    folder: Path, architecture: ArchitectureConfig, training: TrainingConfig, vocabulary_size: int
) -> TrainingJob:
    """Lay out a short training with the spec's strategy, batch and precision."""
    num_tokens = 2 * training.batch_size * training.sequence_length + 1
    tokens = np.random.default_rng(0).integers(1, vocabulary_size, num_tokens)
    document = EncodedDocument(id="noise", tokens=tokens)
    write_shards(folder / "tokens", {"train": [document]}, vocabulary_size=vocabulary_size, eos_id=0)
    for name in TOKENIZER_FILES:
        (folder / name).write_text("{}", encoding="utf-8")
    return TrainingJob(
        architecture=architecture,
        training=shortened(training),
        tokens=folder / "tokens",
        tokenizer=folder,
        start=_write_weights(folder / "start", architecture, vocabulary_size) if training.start.lora else None,
        workspace=folder / "work",
        store_url=f"file://{folder / 'store'}",
        checkpoints="checkpoints/plan",
        read_every_steps=BLOCK_STEPS,
    )


def _write_weights(folder: Path, architecture: ArchitectureConfig, vocabulary_size: int) -> Path:
    """Write random weights, for adapters to be attached to: how fast they are does not depend on what they know."""
    model = build_model(architecture, vocabulary_size=vocabulary_size, eos_id=0, seed=0)
    model.save_pretrained(folder)
    return folder
