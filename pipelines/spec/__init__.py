"""Model specs: one YAML file per model, checked once, with defaults in the classes.

A file names only what differs from the defaults. A typo is an error that names the known keys.
"""

from __future__ import annotations

from pipelines.spec.backup import BackupConfig
from pipelines.spec.base import Frozen
from pipelines.spec.data import DataConfig, Expectation, PreparationConfig, Severity, Source, TokenizerConfig
from pipelines.spec.learning import ArchitectureConfig, EvaluationConfig
from pipelines.spec.model import ModelSpec, TriggerParams
from pipelines.spec.problems import explain
from pipelines.spec.reading import (
    load_spec,
    merge,
    model_name,
    parse_params,
    parse_spec,
    parse_spec_text,
    schema_json,
    spec_text,
)
from pipelines.spec.resources import ResourcesConfig, StepResources, TrainingResources
from pipelines.spec.serving import PackagingConfig, RolloutConfig, ServiceConfig, ServingConfig
from pipelines.spec.strategies import (
    DdpConfig,
    DilocoConfig,
    FsdpConfig,
    ParameterServerConfig,
    StrategyConfig,
    TensorConfig,
)
from pipelines.spec.training import LoraConfig, StabilityConfig, StartConfig, TrainingConfig, WatchdogConfig

__all__ = [
    "ArchitectureConfig",
    "BackupConfig",
    "DataConfig",
    "DdpConfig",
    "DilocoConfig",
    "EvaluationConfig",
    "Expectation",
    "Frozen",
    "FsdpConfig",
    "LoraConfig",
    "ModelSpec",
    "PackagingConfig",
    "ParameterServerConfig",
    "PreparationConfig",
    "ResourcesConfig",
    "RolloutConfig",
    "ServiceConfig",
    "ServingConfig",
    "Severity",
    "Source",
    "StabilityConfig",
    "StartConfig",
    "StepResources",
    "StrategyConfig",
    "TensorConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "TrainingResources",
    "TriggerParams",
    "WatchdogConfig",
    "explain",
    "load_spec",
    "merge",
    "model_name",
    "parse_params",
    "parse_spec",
    "parse_spec_text",
    "schema_json",
    "spec_text",
]
