"""Train the model: torchrun with the spec's ranks, checkpoints in the store, a Hugging Face folder as the result."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipelines.artifacts import ArtifactRef
from pipelines.data.sources import check_unchanged
from pipelines.errors import RanksFailed
from pipelines.formats.shards import TokenShards
from pipelines.spec import ArchitectureConfig, Frozen, ModelSpec, Source, TrainingConfig
from pipelines.step import StepContext
from pipelines.training.data import WindowedTokens
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import read_metrics, write_tensorboard
from pipelines.training.plot import draw
from pipelines.training.supervise import supervise

LIBRARIES: tuple[str, ...] = ("numpy", "safetensors", "torch", "transformers")


class Config(Frozen):
    """What a training depends on."""

    architecture: ArchitectureConfig
    training: TrainingConfig
    source: Source = Field(exclude=True)
    """Where the data came from: only to see that it is still what was validated, so it is no part of the key."""


class Inputs(Frozen):
    """Tokens, their tokenizer, and the digest of the source when it was validated."""

    tokens: ArtifactRef
    tokenizer: ArtifactRef
    source_digest: str


class Result(Frozen):
    """The trained model and how it came about."""

    model: ArtifactRef
    training: ArtifactRef
    final_loss: float
    """Mean loss of the last steps, in nats per token."""

    tokens_per_second: float
    """Over the whole training."""

    num_parameters: int
    steps: int
    resumed_from_step: int
    """Steps that earlier tries had done."""


def configure(spec: ModelSpec) -> Config:
    """Take architecture, training and source."""
    return Config(architecture=spec.architecture, training=spec.training, source=spec.data.source)


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Train, or go on after the newest checkpoint of an earlier try, and publish model and record.

    Raises:
        DataRejected: when the source changed since it was validated.
        BadInput: when there are fewer tokens than one sequence takes.
        TrainingDiverged: when the loss stopped being a finite number; nothing is published.
        RanksFailed: when a rank died.
    """
    check_unchanged(config.source, inputs.source_digest)
    job = TrainingJob(
        architecture=config.architecture,
        training=config.training,
        tokens=context.fetch(inputs.tokens),
        tokenizer=context.fetch(inputs.tokenizer),
        workspace=context.scratch / "training",
        store_url=context.store.url,
        checkpoints=f"checkpoints/{context.key}",
    )
    WindowedTokens(TokenShards.open(job.tokens).split("train"), config.training.sequence_length)  # before ranks start
    resumption = supervise(job, context.report)
    readings = read_metrics(job.metrics_file)
    if not readings or readings[-1].step != config.training.max_steps:
        raise RanksFailed(f"training: ended without step {config.training.max_steps}; clear the task to go on")
    last = readings[-1]
    return Result(
        model=context.publish("model", job.model_folder, [inputs.tokens, inputs.tokenizer]),
        training=context.publish("training", _record(job, context.scratch / "record"), [inputs.tokens]),
        final_loss=last.loss,
        tokens_per_second=last.tokens / last.seconds,
        num_parameters=count_parameters(job.model_folder),
        steps=last.step,
        resumed_from_step=resumption.step,
    )


def _record(job: TrainingJob, folder: Path) -> Path:
    """Lay out what people look at: metrics, TensorBoard events, plots."""
    folder.mkdir()
    readings = read_metrics(job.metrics_file)
    (folder / "metrics.jsonl").write_bytes(job.metrics_file.read_bytes())
    write_tensorboard(readings, folder / "tensorboard")
    draw(readings, folder / "training.png")
    draw(readings, folder / "training.svg")
    return folder


def count_parameters(folder: Path) -> int:
    """Return the number of weights in a Hugging Face folder; shared ones count once."""
    import math

    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total
