"""Train the model: torchrun with the spec's ranks, checkpoints in the store, a Hugging Face folder as the result."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from pydantic import Field

from pipelines.artifacts import ArtifactRef
from pipelines.data import weights
from pipelines.data.sources import check_unchanged
from pipelines.errors import BadInput, RanksFailed, SlipwayError
from pipelines.formats.shards import TokenShards
from pipelines.keys import code_digest
from pipelines.spec import ArchitectureConfig, Frozen, ModelSpec, Source, TrainingConfig
from pipelines.step import StepContext
from pipelines.store import Store
from pipelines.training.assistance import help_first_node
from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.data import WindowedTokens
from pipelines.training.determinism import Determinism, read_records
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import read_metrics
from pipelines.training.nodes import Meeting, Place
from pipelines.training.planning.facts import Comparison, Plan
from pipelines.training.record import write_record
from pipelines.training.report import Report
from pipelines.training.supervision.events import read_events
from pipelines.training.supervision.supervise import supervise

logger = logging.getLogger(__name__)

LIBRARIES: tuple[str, ...] = ("numpy", "peft", "safetensors", "torch", "transformers")


class Config(Frozen):
    """What a training depends on."""

    architecture: ArchitectureConfig
    training: TrainingConfig
    price_per_hour: float | None = Field(default=None, exclude=True)
    """What the training costs, which changes nothing about its result."""

    source: Source = Field(exclude=True)
    """Where the data came from: only to see that it is still what was validated, so it is no part of the key."""


class Inputs(Frozen):
    """Tokens, their tokenizer, and the digest of the source when it was validated."""

    tokens: ArtifactRef
    tokenizer: ArtifactRef
    source_digest: str
    """Empty: the tokens count, whatever became of their source; so trains a replay."""


class Result(Frozen):
    """The trained model and how it came about."""

    model: ArtifactRef
    training: ArtifactRef
    start: ArtifactRef | None = None
    """Weights that the training began with; None: from scratch."""

    adapter: ArtifactRef | None = None
    """What was trained in place of the weights; the model has it merged."""

    final_loss: float
    """Mean loss of the last steps, in nats per token."""

    tokens_per_second: float
    """Over the whole training."""

    num_parameters: int
    steps: int
    resumed_from_step: int
    """Steps that earlier tries had done."""

    planned: Comparison | None = None
    """What a plan had told, and what it came to; None when there was no plan."""


def configure(spec: ModelSpec) -> Config:
    """Take architecture, training and source."""
    training = spec.training
    return Config(
        architecture=spec.architecture,
        training=training.model_copy(update={"price_per_hour": None}),
        price_per_hour=training.price_per_hour,
        source=spec.data.source,
    )


def fingerprint(config: Config) -> str:
    """Return the digest of what is outside the store: the weights to start from."""
    return weights.fingerprint(config.training.start)


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Train, or go on after the newest checkpoint of an earlier try, and publish model and record.

    Raises:
        DataRejected: when the source changed since it was validated.
        BadInput: when there are fewer tokens than the ranks need, or the weights to start from do not fit.
        TrainingDiverged: when the loss stopped being a finite number; nothing is published.
        RanksFailed: when a rank died.
    """
    if inputs.source_digest:
        check_unchanged(config.source, inputs.source_digest)
    job = _job(config, inputs, context)
    _check_samples(job)
    _check_origin(job, context.store)
    start = context.publish("start", job.start) if job.start else None
    if job.place.num_nodes > 1:
        job = job.at(_meeting(context).announce(job.place))
    started = time.monotonic()
    try:
        resumption = supervise(job, context.report)
    except SlipwayError:
        _tell_newest(job, context.store)
        raise
    seconds = time.monotonic() - started
    readings = read_metrics(job.metrics_file)
    if not readings or readings[-1].step != config.training.max_steps:
        raise RanksFailed(f"training: ended without step {config.training.max_steps}; clear the task to go on")
    last = readings[-1]
    origins = [inputs.tokens, inputs.tokenizer, *([start] if start else [])]
    model = context.publish("model", job.model_folder, origins)
    adapter = context.publish("adapter", job.adapter_folder, origins) if config.training.start.lora else None
    determinism = Determinism.of(
        read_records(job),
        seed=config.training.seed,
        code=code_digest(__name__),
        inputs=_digests(tokens=inputs.tokens, tokenizer=inputs.tokenizer, start=start),
        outputs=_digests(model=model, adapter=adapter),
        resumed_from_step=resumption.step,
    )
    report = _report(config, job, determinism, seconds, context)
    return Result(
        model=model,
        start=start,
        adapter=adapter,
        training=context.publish("training", write_record(context.scratch / "record", job, report), [inputs.tokens]),
        final_loss=last.loss,
        tokens_per_second=last.tokens / last.seconds,
        num_parameters=count_parameters(job.model_folder),
        steps=last.step,
        resumed_from_step=resumption.step,
        planned=report.comparison,
    )


def _digests(**refs: ArtifactRef | None) -> dict[str, str]:
    return {name: ref.digest for name, ref in refs.items() if ref is not None}


def join(config: Config, inputs: Inputs, context: StepContext) -> None:
    """Be one of the machines that help the first one, which runs the step."""
    help_first_node(_job(config, inputs, context), _meeting(context))


def _job(config: Config, inputs: Inputs, context: StepContext) -> TrainingJob:
    """Return what the processes of this machine are told."""
    return TrainingJob(
        architecture=config.architecture,
        training=config.training,
        tokens=context.fetch(inputs.tokens),
        tokenizer=context.fetch(inputs.tokenizer),
        start=weights.download(config.training.start, context.scratch / "start", context.fingerprint),
        workspace=context.scratch / "training",
        store_url=context.store.url,
        checkpoints=f"checkpoints/{context.key}",
        model=context.model,
        tensorboard=f"{context.info.folder}/tensorboard",
        place=Place.of(os.environ),
    )


def _check_samples(job: TrainingJob) -> None:
    """See, before ranks start, that there is something to learn from for each of them."""
    tokens = WindowedTokens(TokenShards.open(job.tokens).split("train"), job.training.sequence_length)
    if tokens.num_windows < job.training.data_ranks:
        raise BadInput(
            f"training.ranks {job.training.ranks} are more than the {tokens.num_windows} sequences of "
            f"training.sequence_length {job.training.sequence_length} in split train; give more data, shorter "
            "sequences or fewer ranks"
        )


def _check_origin(job: TrainingJob, store: Store) -> None:
    """See, before ranks start, that the checkpoint to go on from is there, unless this training has its own."""
    if not (checkpoint := job.training.resume_from) or any(CheckpointFolder(store, job.checkpoints).candidates()):
        return
    folder, step = CheckpointFolder.of(store, checkpoint)
    if step not in (steps := list(folder.candidates())):
        others = f"there are {', '.join(map(folder.step_path, steps))}" if steps else "there is none of that training"
        raise BadInput(f"training.resume_from {checkpoint}: no such checkpoint in {store.url}; {others}")


def _tell_newest(job: TrainingJob, store: Store) -> None:
    """Say where the training could go on with another spec; with the same one it does so by itself."""
    folder = CheckpointFolder(store, job.checkpoints)
    with contextlib.suppress(SlipwayError):  # that the store is away, say, is told already
        if step := next(folder.candidates(), 0):
            logger.info("training: to go on with another spec, set training.resume_from to %s", folder.step_path(step))


def _meeting(context: StepContext) -> Meeting:
    return Meeting(context.store, notice_uri=context.info.meeting_uri, receipt_uri=context.info.receipt_uri)


def _report(config: Config, job: TrainingJob, determinism: Determinism, seconds: float, context: StepContext) -> Report:
    """Put together what is told about a training that took so many seconds in this try."""
    readings, records = read_metrics(job.metrics_file), read_records(job)
    before = [reading.seconds for reading in readings if reading.step <= determinism.resumed_from_step]
    plan = Plan.find(context.store, config.architecture, config.training)
    return Report(
        model=context.model,
        training=config.training,
        readings=readings,
        events=read_events(job.events_file),
        records=records,
        determinism=determinism,
        comparison=plan.compare(
            seconds=seconds + max(before, default=0.0),
            memory_bytes=max(record.peak_memory_bytes for record in records),
            price_per_hour=config.price_per_hour,
        )
        if plan
        else None,
    )


def count_parameters(folder: Path) -> int:
    """Return the number of weights in a Hugging Face folder; shared ones count once."""
    import math

    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total
