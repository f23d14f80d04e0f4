"""Train again what a run has trained, from its own frozen spec and inputs, and compare."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ArtifactMissing, BadInput
from pipelines.runner import WorkStep
from pipelines.settings import Settings
from pipelines.step import InputsDocument, Receipt, RunInfo, quote_run_id, read_receipt
from pipelines.store import Store
from pipelines.training.comparison import Difference, compare_losses, compare_weights
from pipelines.training.determinism import differences
from pipelines.training.record import read_determinism, read_readings

STEP = "train"


def replay(run_id: str, model: str, settings: Settings, say: Callable[[str], object]) -> Difference:
    """Train once more what a run has trained, and return the difference; its artifacts stay as they are.

    Args:
        run_id: whose training is done again.
        model: of the run; empty: found by the run's id.
        settings: where things are.
        say: gets every line that the training prints.

    Raises:
        BadInput: when there is no such run, or several models have one.
        ArtifactMissing: when its inputs are gone.
        StepFailed: when it does not train to the end this time.
    """
    store = Store(settings.store_url())
    first = _newest_receipt(store, model or _model_of(store, run_id), run_id, STEP)
    second = _train_again(store, first, settings, say)
    cache = settings.resolved_home() / "cache"
    return Difference(
        weights=compare_weights(_fetch(store, first, cache), _fetch(store, second, cache)),
        losses=compare_losses(*(read_readings(store, _ref(receipt, "training")) for receipt in (first, second))),
        circumstances=tuple(
            differences(*(read_determinism(store, _ref(receipt, "training")) for receipt in (first, second)))
        ),
    )


def _train_again(store: Store, first: Receipt, settings: Settings, say: Callable[[str], object]) -> Receipt:
    """Run the step as the run did, but as work of its own: nothing is reused, and nobody will find it again."""
    frozen = _newest_receipt(store, first.run.model, first.run.run_id, "freeze")
    document = store.read(first.run.inputs_uri)
    if document is None:
        raise ArtifactMissing(f"run {first.run.run_id}: {first.run.inputs_uri} is gone; without it nothing is replayed")
    inputs = InputsDocument.model_validate_json(document).inputs
    info = RunInfo(model=first.run.model, run_id=f"replay__{uuid.uuid4().hex[:12]}", task_id=STEP, force=True)
    step = WorkStep(STEP, _ref(frozen, "spec").uri, info, settings)
    receipt = step.run({**inputs, "source_digest": ""}, say)
    for path in (f"keys/{STEP}/{receipt.key}.json", *store.list(f"checkpoints/{receipt.key}")):
        store.delete(path)
    return receipt


def _model_of(store: Store, run_id: str) -> str:
    wanted = quote_run_id(run_id)
    models = {path.split("/")[1] for path in store.list("runs") if path.split("/")[2] == wanted}
    if not models:
        raise BadInput(f"run: {store.url} has no run {run_id!r}; Airflow and the logs name runs by their ids")
    if len(models) > 1:
        raise BadInput(f"run: {run_id!r} is a run of {', '.join(sorted(models))}; give one of them with --model")
    return models.pop()


def _newest_receipt(store: Store, model: str, run_id: str, task_id: str) -> Receipt:
    folder = RunInfo(model=model, run_id=run_id, task_id=task_id).folder
    tries = [path.removeprefix(f"{folder}/").removesuffix(".json") for path in store.list(folder)]
    numbers = [int(number) for number in tries if number.isdigit()]
    if not numbers:
        raise BadInput(f"run: {run_id!r} of {model} has no receipt of {task_id}: it did not get so far")
    return read_receipt(store, f"{folder}/{max(numbers)}.json")


def _fetch(store: Store, receipt: Receipt, cache: Path) -> Path:
    return artifacts.fetch(store, _ref(receipt, "model"), cache)


def _ref(receipt: Receipt, name: str) -> ArtifactRef:
    return ArtifactRef.model_validate(receipt.result[name])
