"""Whatever dies or is damaged under a real run: the retry goes on, and the next reader refuses by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import ledger, lifecycle, step
from pipelines.artifacts import ArtifactRef, read_manifest
from pipelines.settings import REPOSITORY
from pipelines.stack.airflow_api import AirflowApi
from pipelines.stack.summary import load_receipts
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store
from tests.e2e.conftest import STEPS, FirstRun, LocalStack, wait_for

DAG = "lifecycle_tiny"
EVERY = 10
"""Steps between checkpoints in the tiny spec: the most that may be lost."""


@pytest.fixture(scope="module")
def unbroken(stack: LocalStack, first_run: FirstRun) -> dict[str, Receipt]:
    """Return the receipts of a run that nothing disturbed."""
    return first_run.receipts(stack)


def finish(stack: LocalStack, run_id: str) -> dict[str, Receipt]:
    """Wait for a run's end, which must be green, and return its receipts."""
    api = AirflowApi.of(stack.settings)
    wait_for(lambda: state(api, run_id) in ("success", "failed"), 500, f"{run_id} ends")
    assert state(api, run_id) == "success"
    return load_receipts(Store(stack.settings.store_url()), "tiny", run_id)


def state(api: AirflowApi, run_id: str) -> str:
    """Return a run's state; an API server that is being restarted says nothing yet."""
    from pipelines.stack.airflow_api import AirflowAway

    try:
        return api.run_state(DAG, run_id)
    except AirflowAway:
        return "away"


def training_processes(stack: LocalStack) -> list[psutil.Process]:
    """Return the processes of a running train step: the step, torchrun's agent, the ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            ours = process.environ().get("SLIPWAY_HOME") == str(stack.settings.home)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if ours and ("pipelines step train" in line or "pipelines.training." in line):
            found.append(process)
    return found


def scheduler(stack: LocalStack) -> int:
    return stack.states()["airflow-scheduler"].pid


def task(stack: LocalStack) -> int:
    """Return Airflow's own process that holds the train step."""
    return next(process.ppid() for process in training_processes(stack) if "step train" in " ".join(process.cmdline()))


@pytest.mark.parametrize(
    "victim", [pytest.param(task, id="task"), pytest.param(scheduler, id="scheduler", marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    stack: LocalStack, unbroken: dict[str, Receipt], victim: Callable[[LocalStack], int]
) -> None:
    store, api = Store(stack.settings.store_url()), AirflowApi.of(stack.settings)
    run_id = api.trigger(DAG, {"max_steps": STEPS, "force": ["train"], "note": "to be killed"})
    info = RunInfo(model="tiny", run_id=run_id, task_id="train")

    def reached() -> int:
        return int(json.loads(store.read(info.progress_uri) or b"{}").get("step", 0))

    wait_for(lambda: reached() > STEPS // 4, 300, "a quarter of the training")
    before = training_processes(stack)
    assert before
    at_kill = reached()
    os.kill(victim(stack), signal.SIGKILL)
    wait_for(lambda: not any(process.is_running() for process in before), 60, "no orphan rank survives")

    receipts = finish(stack, run_id)
    assert receipts["train"].run.try_number > 1
    assert receipts["train"].result["resumed_from_step"] >= at_kill - EVERY
    assert receipts["train"].result["model"] == unbroken["train"].result["model"]


READERS = [
    pytest.param("spec", "validate", id="spec"),
    pytest.param("dataset", "prepare", id="dataset"),
    pytest.param("tokens", "train", id="tokens"),
    pytest.param("tokenizer", "train", id="tokenizer"),
    pytest.param("model", "evaluate", id="model"),
    pytest.param("model", "package", id="model-when-packaged"),
]


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_flipped_byte_is_refused_by_the_next_reader(
    stack: LocalStack, unbroken: dict[str, Receipt], tmp_path: Path, kind: str, reader: str
) -> None:
    copied = copy_of_store(stack, tmp_path)
    control = read_again(stack, copied, unbroken, reader, run_id="control") if kind == "spec" else None
    assert control is None or control.returncode == 0, control.stdout
    name = flip(copied, reference(unbroken, kind))
    refused = read_again(stack, copied, unbroken, reader, run_id="flipped")
    assert refused.returncode == 20, refused.stdout
    assert f"error: artifact artifacts/{kind}/" in refused.stdout
    assert name in refused.stdout
    assert copied.list(f"runs/tiny/flipped/{reader}") == [f"runs/tiny/flipped/{reader}/1.inputs.json"]


def test_a_flipped_byte_in_a_bento_is_never_released(
    stack: LocalStack, unbroken: dict[str, Receipt], tmp_path: Path
) -> None:
    """The bento of a new version is damaged after packaging; the rollout is refused and the old version serves."""
    store, api = Store(stack.settings.store_url()), AirflowApi.of(stack.settings)
    champion = ledger.champion(stack.settings.ledger_url(), "tiny")
    assert champion is not None
    run_id = api.trigger(DAG, {"max_steps": STEPS + 1, "note": "damaged after packaging"})
    info = RunInfo(model="tiny", run_id=run_id, task_id="package")
    wait_for(lambda: store.read(info.receipt_uri) is not None, 300, "packaged")
    bento = ArtifactRef.model_validate(step.read_receipt(store, info.receipt_uri).result["bento"])
    flip(store, bento)
    wait_for(lambda: state(api, run_id) in ("success", "failed"), 300, "the run ends")
    flip(store, bento)  # other tests share this store
    assert state(api, run_id) == "failed"
    assert ledger.champion(stack.settings.ledger_url(), "tiny") == champion


def copy_of_store(stack: LocalStack, tmp_path: Path) -> Store:
    """Return a copy without the records of finished work, so that a step reads its inputs again."""
    shutil.copytree(stack.settings.home / "store", tmp_path / "store", ignore=shutil.ignore_patterns("keys", "leases"))
    return Store(f"file://{tmp_path / 'store'}")


def reference(receipts: dict[str, Receipt], kind: str) -> ArtifactRef:
    return next(ref for receipt in receipts.values() for ref in step.references(receipt.result) if ref.kind == kind)


def flip(store: Store, ref: ArtifactRef) -> str:
    """Flip one byte in the largest file of an artifact; return the file's name."""
    largest = max(read_manifest(store, ref).files, key=lambda file: file.size_bytes)
    path = store.local_path(f"{ref.uri}/{largest.path}")
    assert path is not None
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return largest.path


def read_again(
    stack: LocalStack, store: Store, receipts: dict[str, Receipt], reader: str, *, run_id: str
) -> subprocess.CompletedProcess[str]:
    info = RunInfo(model="tiny", run_id=run_id, task_id=reader)
    inputs: dict[str, Any] = lifecycle.inputs_of(reader, receipts, lambda: None)
    step.write_inputs(store, info, inputs)
    spec = ArtifactRef.model_validate(receipts["freeze"].result["spec"]).uri
    environment = {**stack.environment, "SLIPWAY_STORE": store.url, "SLIPWAY_HOME": str(stack.settings.home / run_id)}
    return subprocess.run(
        [sys.executable, *step.command(reader, spec, info)],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
