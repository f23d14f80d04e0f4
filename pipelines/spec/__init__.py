"""Model specs: one YAML file per model, checked once, with defaults in the classes.

A file names only what differs from the defaults. A typo is an error that names the known keys.
"""

from __future__ import annotations

from pipelines.spec.backup import BackupConfig
from pipelines.spec.base import Frozen
from pipelines.spec.data import DataConfig, Expectation, PreparationConfig, Severity, Source, TokenizerConfig
from pipelines.spec.learning import ArchitectureConfig, EvaluationConfig, TrainingConfig
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

__all__ = [
    "ArchitectureConfig",
    "BackupConfig",
    "DataConfig",
    "EvaluationConfig",
    "Expectation",
    "Frozen",
    "ModelSpec",
    "PackagingConfig",
    "PreparationConfig",
    "ResourcesConfig",
    "RolloutConfig",
    "ServiceConfig",
    "ServingConfig",
    "Severity",
    "Source",
    "StepResources",
    "TokenizerConfig",
    "TrainingConfig",
    "TrainingResources",
    "TriggerParams",
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
