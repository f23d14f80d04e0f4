"""From a spec to a served answer through the real Airflow, controller and Envoy, as a user sees it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from pipelines import ledger
from pipelines.errors import BadInput
from pipelines.stack.airflow_api import AirflowApi
from pipelines.stack.summary import load_receipts
from pipelines.step import quote_run_id
from pipelines.store import Store
from tests.e2e.conftest import RUN_SECONDS, STEPS, FirstRun, LocalStack, wait_for

DAG = "lifecycle_tiny"


def version_in(output: str) -> int:
    """Return the version that a summary names."""
    found = re.search(r"^Model +tiny version (\d+)$", output, re.MULTILINE)
    assert found, output
    return int(found.group(1))


def test_a_user_sees_progress_and_a_curl_line_that_works(stack: LocalStack, first_run: FirstRun) -> None:
    for step in ("freeze", "validate", "prepare", "train", "evaluate", "package", "rollout.promote", "record"):
        assert step in first_run.output
    assert "Perplexity" in first_run.output
    curl = next(
        line.partition("Try it")[2].strip() for line in first_run.output.splitlines() if line.startswith("Try it")
    )
    answer = subprocess.run(["/bin/bash", "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["text"] is not None


def test_the_answer_proves_which_weights_gave_it(stack: LocalStack, first_run: FirstRun) -> None:
    champion = ledger.champion(stack.settings.ledger_url(), "tiny")
    service = ledger.read_service(stack.settings.ledger_url(), "tiny")
    assert champion is not None
    assert service is not None
    answer = httpx.get(f"http://127.0.0.1:{service.port}/v1/models")
    assert answer.headers["X-Slipway-Digest"] == champion.model.digest
    assert f"Digest      {champion.model.digest}" in first_run.output
    ledger.verify_chain(stack.settings.ledger_url(), "tiny")


def test_status_says_what_serves(stack: LocalStack, first_run: FirstRun) -> None:
    champion = ledger.champion(stack.settings.ledger_url(), "tiny")
    assert champion is not None
    assert f"tiny: version {champion.number} (digest {champion.model.short}) at http://" in stack.run("status").stdout


def test_a_second_run_finds_all_of_its_finished_work(stack: LocalStack, first_run: FirstRun) -> None:
    again = stack.run("trigger", "tiny", "--max-steps", str(STEPS), timeout=RUN_SECONDS)
    assert again.returncode == 0, again.stdout
    reused = next(line for line in again.stdout.splitlines() if line.startswith("Reused"))
    for step in ("validate", "prepare", "train", "evaluate", "package"):
        assert step in reused
    assert version_in(again.stdout) == version_in(first_run.output)


def test_the_form_refuses_what_the_schema_does_not_allow(stack: LocalStack, first_run: FirstRun) -> None:
    api = AirflowApi.of(stack.settings)
    for bad in ({"max_steps": 0}, {"max_steps": "many"}, {"force": ["trian"]}, {"source": 3}):
        with pytest.raises(BadInput, match="Airflow refused"):
            api.trigger(DAG, bad)


def test_a_typo_in_the_model_name_is_one_plain_error(stack: LocalStack) -> None:
    refused = stack.run("trigger", "tinny")
    assert refused.returncode == 20
    assert "tinny" in refused.stdout
    assert "Traceback" not in refused.stdout


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [5])
def test_many_triggers_at_once_train_and_deploy_once(stack: LocalStack, first_run: FirstRun, num_runs: int) -> None:
    api, before = AirflowApi.of(stack.settings), ledger.champion(stack.settings.ledger_url(), "tiny")
    assert before is not None
    params = {"max_steps": 20 + num_runs, "note": "all at once"}
    with ThreadPoolExecutor(num_runs) as pool:
        ids = list(pool.map(lambda _: api.trigger(DAG, params), range(num_runs)))
    wait_for(lambda: all(api.run_state(DAG, run) in ("success", "failed") for run in ids), 600, "all runs end")
    assert [api.run_state(DAG, run) for run in ids] == ["success"] * num_runs
    store = Store(stack.settings.store_url())
    receipts = [load_receipts(store, "tiny", run) for run in ids]
    assert sum(not run["train"].reused for run in receipts) == 1
    outcomes = sorted(str(run["rollout.bake"].result["outcome"]) for run in receipts)
    assert outcomes == ["already_serving"] * (num_runs - 1) + ["promoted"]
    assert {run["record"].result["version"] for run in receipts} == {before.number + 1}


def test_a_refused_gate_is_red_keeps_its_report_and_deploys_nothing(stack: LocalStack, first_run: FirstRun) -> None:
    path = stack.settings.models_dir / "strict.yaml"
    strict = yaml.safe_load((stack.settings.models_dir / "tiny.yaml").read_text())
    strict["evaluation"]["max_perplexity_ratio"] = 0.0001
    path.write_text(yaml.safe_dump(strict))
    refused = stack.run("run", "--spec", str(path), timeout=RUN_SECONDS)
    assert refused.returncode == 20, refused.stdout
    assert "gate perplexity_ratio refused: observed" in refused.stdout
    assert ledger.champion(stack.settings.ledger_url(), "strict") is None
    report = refused.stdout.partition("artifacts/evaluation/")[2][:64]
    assert Path(stack.settings.home / "store" / "artifacts" / "evaluation" / report / "report.html").is_file()


def test_run_takes_a_spec_to_an_answer_without_airflow(stack: LocalStack, first_run: FirstRun) -> None:
    path = stack.settings.models_dir / "by_hand.yaml"
    shutil.copy(stack.settings.models_dir / "tiny.yaml", path)
    done = stack.run("run", "--spec", str(path), "--max-steps", "5", timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout
    service = ledger.read_service(stack.settings.ledger_url(), "by-hand")
    assert service is not None
    assert httpx.get(f"http://127.0.0.1:{service.port}/provenance").json()["name"] == "by-hand"


def test_garbage_collection_leaves_what_serves(stack: LocalStack, first_run: FirstRun) -> None:
    listed = stack.run("gc")
    assert listed.returncode == 0, listed.stdout
    assert "would remove 0 artifacts" in listed.stdout  # everything is young or in the ledger
    verified = stack.run("verify", "--all")
    assert verified.returncode == 0, verified.stdout


def test_receipts_lie_under_the_quoted_run_id(stack: LocalStack, first_run: FirstRun) -> None:
    assert ":" in first_run.id
    assert (
        stack.settings.home / "store" / "runs" / "tiny" / quote_run_id(first_run.id) / "record" / "1.json"
    ).is_file()
