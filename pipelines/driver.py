"""Run the lifecycle without Airflow: the same steps, stack and controller, one after another in this terminal."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, SlipwayError
from pipelines.lifecycle import inputs_of, is_forced, release_inputs, upstream
from pipelines.release.course import transitions
from pipelines.runner import WorkStep
from pipelines.settings import Settings
from pipelines.spec import ModelSpec, RolloutConfig, load_spec, parse_params
from pipelines.step import WORK_STEPS, Receipt, RunInfo, leave_receipt, leave_spec
from pipelines.steps import backup, record, rollback, rollout
from pipelines.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=BaseModel)


def run_lifecycle(spec_file: Path, params: Mapping[str, Any], settings: Settings) -> record.Result:
    """Take a spec to a service that answers. Ctrl-C, or any failure of the rollout, leaves the old version serving.

    Raises:
        BadInput: on a platform where only Airflow may start work, and for a broken spec or parameter.
        StepFailed: when a work step fails.
        RolledBack: when the rollout did not end with the new version.
    """
    if settings.platform != "local":
        raise BadInput(
            f"run: works on the local platform only, SLIPWAY_PLATFORM is {settings.platform}; there, steps need pods: "
            "trigger the DAG in Airflow"
        )
    model = load_spec(spec_file).name
    given = {name: value for name, value in params.items() if value is not None}
    parse_params(given)
    ledger.champion(settings.ledger_url(), model)  # a stack that is down is told before any work is done
    run = _Run(model, f"cli__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S-%f}", settings)
    logger.info("run %s of %s", run.run_id, model)
    for step in WORK_STEPS:
        run.work(step, spec_file, given)
    return run.release()


class _Run:
    def __init__(self, model: str, run_id: str, settings: Settings) -> None:
        self.run_id = run_id
        self._model = model
        self._settings = settings
        self._store = Store(settings.store_url())
        self._receipts: dict[str, Receipt] = {}

    def work(self, step: str, spec_file: Path, params: Mapping[str, Any]) -> None:
        """Do one work step as a process."""
        if step == "freeze":
            spec_uri, inputs, forced = leave_spec(self._store, self._info(step), spec_file), dict(params), False
        else:
            frozen = self._receipts["freeze"]
            spec_uri = ArtifactRef.model_validate(frozen.result["spec"]).uri
            receipts = {name: self._receipts[name] for name in upstream(step)}
            inputs, forced = inputs_of(step, receipts, self._champion), is_forced(step, frozen)
        info = self._info(step).model_copy(update={"force": forced})
        process = WorkStep(step, spec_uri, info, self._settings)
        receipt = process.run(inputs, lambda line: logger.debug("%s", line))
        self._receipts[step] = receipt
        done = f"finished work of run {receipt.reused_from}" if receipt.reused else "done"
        logger.info("%-8s %s in %.1f s", step, done, receipt.seconds)

    def release(self) -> record.Result:
        """Save what serves, roll out what the work steps made, and record it."""
        info = self._info("backup")
        self._ledger_step(info, functools.partial(self._back_up, info))
        try:
            for phase in transitions(self._rules()):
                info = self._info(f"rollout.{phase}")
                inputs = rollout.Inputs.model_validate(release_inputs(info, self._receipts))
                self._ledger_step(info, functools.partial(self._phase, phase, inputs))
        except (SlipwayError, KeyboardInterrupt) as failure:
            self._roll_back(failure)
            raise
        info = self._info("record")
        result = self._ledger_step(info, lambda: record.run(record.Inputs(run=info), self._settings))
        logger.info("version %d serves at %s", result.version, result.endpoint)
        return result

    def _back_up(self, info: RunInfo) -> backup.Result:
        spec = ArtifactRef.model_validate(self._receipts["freeze"].result["spec"])
        return backup.run(backup.Inputs(run=info, spec=spec), self._settings)

    def _rules(self) -> RolloutConfig:
        ref = ArtifactRef.model_validate(self._receipts["freeze"].result["spec"])
        return ModelSpec.model_validate_json(artifacts.read_file(self._store, ref, "spec.json")).rollout

    def _phase(self, phase: str, inputs: rollout.Inputs) -> rollout.Result:
        return rollout.wait(rollout.begin(phase, inputs, self._settings), self._settings)

    def _roll_back(self, failure: BaseException) -> None:
        reason = str(failure) or "interrupted by the user"
        waiting = rollback.begin(rollback.Inputs(run=self._info("rollback"), reason=reason), self._settings)
        if isinstance(waiting, rollback.Waiting):
            logger.warning("rolling back: %s", reason)
            logger.info("%s", rollback.wait(waiting, self._settings).detail)

    def _ledger_step(self, info: RunInfo, act: Callable[[], T]) -> T:
        started = time.time()
        result = act()
        receipt = leave_receipt(self._store, info, result, started)
        logger.info("%s: %s (%.1f s)", info.task_id, receipt.result.get("detail", "done"), receipt.seconds)
        return result

    def _champion(self) -> dict[str, Any] | None:
        trained = ArtifactRef.model_validate(self._receipts["train"].result["model"])
        ref = ledger.champion_for_evaluation(self._settings.ledger_url(), self._model, trained)
        return None if ref is None else ref.model_dump()

    def _info(self, task_id: str) -> RunInfo:
        return RunInfo(model=self._model, run_id=self.run_id, task_id=task_id)
