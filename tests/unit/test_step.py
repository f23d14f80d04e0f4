"""Executing a step: receipts, reuse, force, refusal of what a driver should not have sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import step
from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, ReceiptMissing, SpecError
from pipelines.settings import Settings
from pipelines.step import RunInfo
from pipelines.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    (tmp_path / "m.yaml").write_text("description: a model\n")
    return Settings(home=tmp_path / "home", models_dir=tmp_path)


def freeze(
    settings: Settings,
    params: dict[str, object] | None = None,
    *,
    run_id: str = "manual__1",
    try_number: int = 1,
    force: bool = False,
) -> step.Receipt:
    info = RunInfo(model="m", run_id=run_id, task_id="freeze", try_number=try_number, force=force)
    step.write_inputs(Store(settings.store_url()), info, params or {})
    return step.execute(
        "freeze",
        spec_uri=str(settings.models_dir / "m.yaml"),
        inputs_uri=info.inputs_uri,
        result_uri=info.receipt_uri,
        settings=settings,
    )


def test_a_finished_step_leaves_its_receipt_in_the_store(home: Settings) -> None:
    receipt = freeze(home, {"max_steps": 30})
    assert step.read_receipt(Store(home.store_url()), "runs/m/manual__1/freeze/1.json") == receipt
    spec = ArtifactRef.model_validate(receipt.result["spec"])
    path = Store(home.store_url()).local_path(f"{spec.uri}/spec.json")
    assert path is not None
    assert json.loads(path.read_text())["training"]["max_steps"] == 30


def test_another_run_finds_the_finished_work_and_says_whose_it_was(home: Settings) -> None:
    first = freeze(home)
    second = freeze(home, run_id="manual__2")
    assert (second.reused, second.reused_from, second.key) == (True, "manual__1", first.key)
    assert second.result == first.result


def test_a_retry_of_the_same_run_is_not_called_reuse(home: Settings) -> None:
    freeze(home)
    assert not freeze(home, try_number=2).reused


def test_force_does_the_work_again(home: Settings) -> None:
    first = freeze(home)
    forced = freeze(home, run_id="manual__2", force=True)
    assert not forced.reused
    assert forced.key != first.key


def test_damaged_finished_work_is_done_again(home: Settings) -> None:
    first = freeze(home)
    store = Store(home.store_url())
    ref = ArtifactRef.model_validate(first.result["spec"])
    store.put(f"{ref.uri}/spec.json", b"{}")
    second = freeze(home, run_id="manual__2")
    assert not second.reused
    assert step.find_finished(store, "freeze", first.key) is not None


def test_a_refused_step_leaves_no_receipt(home: Settings) -> None:
    with pytest.raises(SpecError, match="unknown step 'trian'; known steps: freeze, validate"):
        freeze(home, {"force": ["trian"]})
    with pytest.raises(ReceiptMissing, match="did not finish"):
        step.read_receipt(Store(home.store_url()), "runs/m/manual__1/freeze/1.json")


def test_inputs_that_do_not_fit_the_step_are_refused(home: Settings) -> None:
    with pytest.raises(BadInput, match="inputs of freeze"):
        freeze(home, {"max_stesp": 3})


@pytest.mark.parametrize("run_id", ["..", ".", "a/../../b", "scheduled__2026-01-01T00:00:00+00:00", "../../etc"])
def test_a_run_id_never_leaves_its_folder(home: Settings, run_id: str) -> None:
    freeze(home, run_id=run_id)
    folder = Store(home.store_url()).local_path("runs/m")
    assert folder is not None
    assert [path.is_dir() for path in folder.iterdir()] == [True]


def test_a_spec_file_goes_through_the_store_to_wherever_the_first_step_runs(home: Settings) -> None:
    store = Store(home.store_url())
    info = RunInfo(model="m", run_id="manual__1", task_id="freeze", try_number=2)
    uri = step.leave_spec(store, info, home.models_dir / "m.yaml")
    assert uri == "runs/m/manual__1/freeze/2.m.yaml"
    (home.models_dir / "m.yaml").unlink()
    assert step.read_spec(store, uri).description == "a model"


def test_a_spec_file_that_is_not_there_is_told_by_its_name(home: Settings) -> None:
    info = RunInfo(model="m", run_id="manual__1", task_id="freeze")
    with pytest.raises(SpecError, match=r"other\.yaml: no such file; specs in that folder: m\.yaml"):
        step.leave_spec(Store(home.store_url()), info, home.models_dir / "other.yaml")


def test_an_unknown_step_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="unknown step 'rollout'; steps that run as a command: freeze, validate"):
        step.load_module("rollout")


def test_references_are_found_at_any_depth() -> None:
    ref = {"kind": "a", "digest": "0" * 64}
    found = list(step.references({"x": [ref, {"y": ref}], "kind": "not", "digest": "a reference", "more": 1}))
    assert found == [ArtifactRef(kind="a", digest="0" * 64)] * 2


def test_a_receipt_too_large_for_xcom_is_refused() -> None:
    info = RunInfo(model="m", run_id="r", task_id="t")
    receipt = step.Receipt(
        step="s", run=info, key="", started=0, seconds=0, result={"x": "y" * step.RECEIPT_LIMIT_BYTES}
    )
    with pytest.raises(BadInput, match="use an artifact"):
        receipt.encode()
