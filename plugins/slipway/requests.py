"""What one try of a work step is asked to do; the same wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from slipway.operators import OfModel, pulled, run_info

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow.sdk import Context

    from pipelines.settings import Settings
    from pipelines.step import Receipt, RunInfo

FIRST = "freeze"
"""The step that reads the spec file and the trigger's params; every later one reads what it froze."""


class OfStep(OfModel, Protocol):
    """An operator that is named like its step."""

    spec_file: str
    """Name of the model's spec file."""


@dataclass(frozen=True)
class Request:
    """Names what a try reads; asking for the inputs is put off until they are needed."""

    info: RunInfo
    spec_uri: str
    spec_file: Path | None
    """For the first step: the file, as it is on this machine."""

    params: Mapping[str, Any]
    receipts: Mapping[str, Receipt]
    """Of the steps before."""

    def inputs(self, settings: Settings) -> Mapping[str, Any]:
        """Return the inputs; the spec file is put where the step's process reads it.

        Raises:
            SpecError: when the file or the params break a rule.
        """
        if self.spec_file is None:
            return self._of_receipts(settings)
        from pipelines.spec import parse_params
        from pipelines.step import leave_spec
        from pipelines.store import Store

        parse_params(self.params)  # before the store gets them: a source that is refused may hold a password
        leave_spec(Store(settings.store_url()), self.info, self.spec_file)
        return self.params

    def _of_receipts(self, settings: Settings) -> Mapping[str, Any]:
        from pipelines.lifecycle import inputs_of

        return inputs_of(self.info.task_id, self.receipts, lambda: self._champion(settings))

    def _champion(self, settings: Settings) -> Mapping[str, Any] | None:
        """Return the model to compare with, from the ledger: the step itself sees no database."""
        from pipelines.artifacts import ArtifactRef
        from pipelines.ledger import champion_for_evaluation

        candidate = ArtifactRef.model_validate(self.receipts["train"].result["model"])
        champion = champion_for_evaluation(settings.ledger_url(), self.info.model, candidate)
        return None if champion is None else champion.model_dump(mode="json")


def request_of(operator: OfStep, context: Context, settings: Settings) -> Request:
    """Return what this try of a task is asked to do."""
    if operator.task_id == FIRST:
        info = run_info(operator, context)
        file = settings.models_dir.resolve() / operator.spec_file
        params = {name: value for name, value in context["params"].items() if value is not None}
        return Request(info, info.spec_uri(file.name), file, params, {})
    from pipelines.artifacts import ArtifactRef
    from pipelines.lifecycle import is_forced, upstream

    receipts = {step: pulled(context, step) for step in upstream(operator.task_id)}
    frozen = receipts[FIRST]
    info = run_info(operator, context, forced=is_forced(operator.task_id, frozen))
    return Request(info, ArtifactRef.model_validate(frozen.result["spec"]).uri, None, {}, receipts)
