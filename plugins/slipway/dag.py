"""What every lifecycle DAG says about itself, from its spec."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from slipway.form import trigger_form
from slipway.notifier import FailureNotifier
from slipway.retries import StepRetryPolicy
from slipway.specs import ListedSpec

TRAINING_POOL = "training"
RELEASE_POOL = "release"
"""Pools that `make up` makes; a task whose pool is missing would wait in silence, so `make up` also checks them."""

TRAINING_TIMEOUT = timedelta(days=14)

ALL_MODELS = "_all"
"""Stands for the model where a task is every model's; no model can have this name."""


def dag_arguments(listed: ListedSpec) -> dict[str, Any]:
    """Return the arguments of a lifecycle DAG."""
    spec = listed.spec
    limit = spec.run_timeout_seconds
    return {
        "dag_id": listed.dag_id,
        "dag_display_name": f"{listed.dag_id} (broken spec)" if listed.problem else listed.dag_id,
        "description": spec.description or f"From raw data to a service that answers: {spec.name}",
        "doc_md": _documentation(listed),
        "schedule": spec.schedule,
        "catchup": False,
        "max_active_runs": 1,
        "dagrun_timeout": None if limit is None else timedelta(seconds=limit),
        "tags": ["slipway", spec.name, *(["broken-spec"] if listed.problem else [])],
        "params": trigger_form(),
        "default_args": {**task_defaults(spec.name, spec.owner), "spec_file": listed.path.name},
    }


def task_defaults(model: str, owner: str) -> dict[str, Any]:
    """Return what every task has: retries with backoff, a limit, an owner, somebody who hears of its failure.

    Args:
        model: whose task it is; ALL_MODELS where it is every model's.
        owner: shown in Airflow.
    """
    return {
        "model": model,
        "owner": owner,
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "retry_policy": StepRetryPolicy(),
        "execution_timeout": timedelta(hours=12),
        "on_failure_callback": FailureNotifier(),
    }


def _documentation(listed: ListedSpec) -> str:
    spec = listed.spec
    if listed.problem:
        return (
            f"**The spec `{listed.path.name}` is broken; until it is repaired, a new run fails at once, "
            f"and the schedule is off.**\n\n```\n{listed.problem}\n```\n"
        )
    return f"""{spec.description}

| | |
|---|---|
| model | `{spec.name}`, spec `{listed.path.name}` |
| owner | {spec.owner} |
| data | `{spec.data.source.uri or spec.data.source.kind}`, {len(spec.data.suite)} expectations |
| architecture | {spec.architecture.model_type}, {spec.architecture.num_layers} x {spec.architecture.hidden_size} |
| training | {spec.training.max_steps} steps, {spec.training.ranks} ranks |

A failed task says in its log what to do; clearing it goes on from there, and finished work is found again.
A failed gate or rollout leaves the old version serving. Rollout phases are cleared from `rollout.stage`.
"""
