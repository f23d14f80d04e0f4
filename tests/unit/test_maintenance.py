"""gc removes what nothing reaches, and only that; verify names what is damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines import artifacts, maintenance, step
from pipelines.artifacts import ArtifactRef
from pipelines.settings import Settings
from pipelines.store import Store

FUTURE = time.time() + 10**6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'home' / 'store'}")


def publish(store: Store, tmp_path: Path, text: str, inputs: tuple[ArtifactRef, ...] = ()) -> ArtifactRef:
    return artifacts.publish_files(store, "thing", {"a.txt": text.encode()}, tmp_path, inputs)


def leave_receipt(store: Store, ref: ArtifactRef, started: float) -> None:
    info = step.RunInfo(model="m", run_id="r", task_id="train")
    result = {"model": ref.model_dump()}
    receipt = step.Receipt(step="train", run=info, key="k", started=started, seconds=1, result=result)
    store.put(info.receipt_uri, receipt.encode())
    step.write_inputs(store, info, {})
    store.put(info.progress_uri, b"{}")
    store.put(f"{info.folder}/1.tiny.yaml", b"description: A spec file that a step was given.")


def test_what_the_ledger_reaches_stays_with_all_that_it_was_made_from(store: Store, tmp_path: Path) -> None:
    data = publish(store, tmp_path, "data")
    model = publish(store, tmp_path, "model", (data,))
    loose = publish(store, tmp_path, "loose")
    report = maintenance.sweep(store, roots=[model], delete=True, oldest_live=FUTURE)
    assert report.artifacts == [loose.uri]
    artifacts.verify(store, data)
    artifacts.verify(store, model)
    assert store.list(loose.uri) == []


def test_without_delete_nothing_is_removed(store: Store, tmp_path: Path) -> None:
    loose = publish(store, tmp_path, "loose")
    report = maintenance.sweep(store, roots=[], delete=False, oldest_live=FUTURE)
    assert report.artifacts == [loose.uri]
    assert "nothing was removed" in report.as_text()
    artifacts.verify(store, loose)


def test_a_young_artifact_may_belong_to_a_step_at_work(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path, "just written")
    assert maintenance.sweep(store, roots=[], delete=True, oldest_live=time.time() - 60).artifacts == []


@pytest.mark.parametrize(("age", "kept"), [pytest.param(-10, True, id="live"), pytest.param(10, False, id="old")])
def test_a_live_run_keeps_its_artifacts(store: Store, tmp_path: Path, age: float, kept: bool) -> None:
    ref = publish(store, tmp_path, "x")
    leave_receipt(store, ref, FUTURE - age)
    report = maintenance.sweep(store, roots=[], delete=True, oldest_live=FUTURE)
    assert artifacts.exists(store, ref) is kept
    assert bool(report.artifacts) is not kept


def test_what_a_step_made_together_stays_together(store: Store, tmp_path: Path) -> None:
    model, curves = publish(store, tmp_path, "model"), publish(store, tmp_path, "curves")
    result = {"model": model.model_dump(), "training": curves.model_dump()}
    record = step.KeyRecord(step="train", key="k", run_id="r", result=result)
    store.put("keys/train/k.json", record.model_dump_json().encode())
    report = maintenance.sweep(store, roots=[model], delete=True, oldest_live=FUTURE)
    assert (report.artifacts, report.keys) == ([], [])
    artifacts.verify(store, curves)


def test_a_key_goes_with_its_artifacts_and_checkpoints_go_with_finished_training(store: Store, tmp_path: Path) -> None:
    gone, kept = publish(store, tmp_path, "gone"), publish(store, tmp_path, "kept")
    for key, ref in (("old", gone), ("new", kept)):
        record = step.KeyRecord(step="train", key=key, run_id="r", result={"model": ref.model_dump()})
        store.put(f"keys/train/{key}.json", record.model_dump_json().encode())
        store.put(f"checkpoints/{key}/step-1/model.safetensors", b"x")
    store.put("checkpoints/unfinished/step-1/model.safetensors", b"x")
    report = maintenance.sweep(store, roots=[kept], delete=True, oldest_live=FUTURE)
    assert report.keys == ["keys/train/old.json"]
    assert store.list("checkpoints") == ["checkpoints/unfinished/step-1/model.safetensors"]


def test_verify_names_what_is_damaged(store: Store, tmp_path: Path) -> None:
    sound, damaged = publish(store, tmp_path, "sound"), publish(store, tmp_path, "damaged")
    store.put(f"{damaged.uri}/a.txt", b"changed")
    told: list[str] = []
    assert maintenance.verify_artifacts(Settings(home=tmp_path / "home"), None, told.append) == 1
    assert any(line.startswith("sound") and sound.digest in line for line in told)
    assert any(line.startswith("DAMAGED") and "a.txt" in line for line in told)
