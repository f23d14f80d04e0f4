"""The whole spec, and what a person may set when triggering a run."""

from __future__ import annotations

import json
from typing import Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipelines.spec.backup import BackupConfig
from pipelines.spec.base import Frozen
from pipelines.spec.data import DataConfig, Location, Objects, PreparationConfig
from pipelines.spec.learning import ArchitectureConfig, EvaluationConfig
from pipelines.spec.resources import ResourcesConfig
from pipelines.spec.serving import PackagingConfig, RolloutConfig, ServiceConfig, ServingConfig
from pipelines.spec.strategies import TensorConfig
from pipelines.spec.training import TrainingConfig

_PRESETS = frozenset({"@once", "@hourly", "@daily", "@weekly", "@monthly", "@yearly"})


class ModelSpec(Frozen):
    """One model: data, training, gates, service and release."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")
    """Model name, from the file's name."""

    description: str = ""
    """One sentence for people."""

    owner: str = "slipway"
    """Who is responsible; shown in Airflow."""

    schedule: str | None = None
    """Cron expression or Airflow preset; null: by hand only."""

    start_on: Objects = ""
    """S3 objects whose arrival starts a run, such as s3://bucket/new/*.jsonl, or only a marker that is written last
    (s3://bucket/new/*/_SUCCESS); empty: nothing waits. The data itself is what `data.source` names."""

    run_timeout_seconds: int | None = Field(default=None, ge=60)
    """A run that takes longer fails, and what it was releasing goes back; null: no limit."""

    data: DataConfig = DataConfig()
    """Source and suite."""

    preparation: PreparationConfig = PreparationConfig()
    """Duplicates, split, tokenizer, shards."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    """The model."""

    training: TrainingConfig = TrainingConfig()
    """The training run."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Offline gates."""

    packaging: PackagingConfig = PackagingConfig()
    """The bento."""

    service: ServiceConfig = ServiceConfig()
    """The endpoint."""

    serving: ServingConfig = ServingConfig()
    """Pods of the endpoint, on a cluster."""

    resources: ResourcesConfig = ResourcesConfig()
    """Pods of the steps, on a cluster."""

    rollout: RolloutConfig = RolloutConfig()
    """The release."""

    backup: BackupConfig = BackupConfig()
    """Backups."""

    @field_validator("schedule")
    @classmethod
    def _schedule_is_cron(cls, value: str | None) -> str | None:
        if value is None or value in _PRESETS or _is_cron(value):
            return value
        raise ValueError(f"schedule {value!r} is neither a cron expression nor one of {', '.join(sorted(_PRESETS))}")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.training.sequence_length > self.architecture.context_length:
            raise ValueError(
                f"training.sequence_length {self.training.sequence_length} must not exceed "
                f"architecture.context_length {self.architecture.context_length}"
            )
        quality = self.rollout.quality
        if quality.enabled and quality.min_pairs > self.packaging.num_reference_requests:
            raise ValueError(
                f"rollout.quality.min_pairs {quality.min_pairs} must not exceed packaging.num_reference_requests "
                f"{self.packaging.num_reference_requests}: each reference is scored once"
            )
        if quality.enabled and self.rollout.replay.requests_per_second == 0:
            raise ValueError("rollout.quality needs rollout.replay.requests_per_second above 0, or enabled: false")
        ranks, nodes = self.training.ranks, self.resources.train.nodes
        if ranks % nodes:
            raise ValueError(
                f"training.ranks {ranks} must be a multiple of resources.train.nodes {nodes}; "
                f"try {max(1, round(ranks / nodes)) * nodes}"
            )
        if self.service.max_tokens >= self.architecture.context_length:
            raise ValueError(
                f"service.max_tokens {self.service.max_tokens} must be less than "
                f"architecture.context_length {self.architecture.context_length}"
            )
        return self

    @model_validator(mode="after")
    def _tensor_ranks_share_equally(self) -> Self:
        match self.training.strategy:
            case TensorConfig() as tensor if problem := tensor.misfit(self.architecture.divided_sizes):
                raise ValueError(problem)
        return self

    def canonical(self) -> bytes:
        """Return the spec as canonical JSON, every default written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


class TriggerParams(Frozen):
    """What a person may set when triggering a run; everything else is in the file."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a source that is refused may hold a password

    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Training steps instead of the spec's."""

    source: Location | None = Field(default=None, max_length=2000)
    """Data source instead of the spec's: `python-docs`, or a URL ending in .parquet, .jsonl, .csv or .txt."""

    force: tuple[str, ...] = ()
    """Steps to run again although their finished work is there."""

    note: str = Field(default="", max_length=2000)
    """Why this run; kept in the receipts."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Training seed instead of the spec's."""

    override: str = Field(default="", max_length=2000)
    """Why weights that were rolled back as worse, or refused, may be tried again; kept in the audit."""


def _is_cron(text: str) -> bool:
    from croniter import croniter  # type: ignore[import-untyped]  # no stubs; Airflow reads schedules with it

    return bool(croniter.is_valid(text))
