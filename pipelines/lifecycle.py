"""The order of the lifecycle and where each step's inputs come from: one table for Airflow and for `run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.step import Receipt, RunInfo

CHAMPION = "champion"
"""Input that a driver resolves from the ledger: the model in production, or None."""

WIRING: dict[str, dict[str, str]] = {
    "validate": {},
    "prepare": {"dataset": "validate.dataset", "source_digest": "validate.source_digest"},
    "train": {
        "tokens": "prepare.tokens",
        "tokenizer": "prepare.tokenizer",
        "source_digest": "validate.source_digest",
    },
    "evaluate": {"model": "train.model", "tokens": "prepare.tokens", "champion": CHAMPION},
    "package": {
        "model": "train.model",
        "tokens": "prepare.tokens",
        "dataset": "validate.dataset",
    },
}
"""For each step after freeze: input name -> `<step>.<result field>`."""


def upstream(step: str) -> tuple[str, ...]:
    """Return the steps whose receipts `step` needs, freeze first."""
    origins = [origin.partition(".")[0] for origin in WIRING[step].values() if origin != CHAMPION]
    return tuple(dict.fromkeys(["freeze", *origins]))


def inputs_of(
    step: str, receipts: Mapping[str, Receipt], champion: Callable[[], Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Return the inputs of a step from the receipts of the steps before it.

    Args:
        step: name of a work step after freeze.
        receipts: receipts of the steps that `upstream(step)` names.
        champion: asked only when the step compares with the model in production.
    """
    inputs: dict[str, Any] = {}
    for name, origin in WIRING[step].items():
        if origin == CHAMPION:
            inputs[name] = champion()
        else:
            source, _, field = origin.partition(".")
            inputs[name] = receipts[source].result[field]
    return inputs


def is_forced(step: str, freeze: Receipt) -> bool:
    """Return whether this run's trigger asked to do a step again."""
    return step in freeze.result["force"]


RELEASED = ("freeze", "train", "evaluate", "package")
"""Steps whose receipts say what a rollout releases."""


def release_inputs(info: RunInfo, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Return the inputs of every rollout phase from the receipts of the steps that `RELEASED` names.

    A run that was asked to package again is asked to release again: it forces the rollout.
    """
    frozen, trained, evaluated, packaged = (receipts[step].result for step in RELEASED)
    forced = is_forced("package", receipts["freeze"])
    return {
        "run": info.model_copy(update={"force": forced}),
        "override": frozen.get("override", ""),
        "bento": packaged["bento"],
        "tag": packaged["tag"],
        "weights": trained["model"],
        "evaluation": evaluated["report"],
        "evaluated_against": evaluated["champion"],
        "perplexity": evaluated["perplexity"],
        "perplexity_low": evaluated["perplexity_low"],
        "perplexity_high": evaluated["perplexity_high"],
        "spec": frozen["spec"],
    }
