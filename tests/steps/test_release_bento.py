"""A release of a real bento: packaged, started by supervisord, reached through Envoy, killed, replaced, taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipelines import artifacts
from pipelines.ledger import Outcome
from pipelines.settings import Settings
from pipelines.spec import RolloutConfig
from pipelines.step import RunInfo
from pipelines.steps import record, rollback, rollout
from tests.ports import own_ranges
from tests.steps.conftest import make_model
from tests.steps.live import wait_for
from tests.steps.release_stage import QUICK, Stage, answers, controlled, installed
from tests.steps.serving import MODEL_NAME, make_inputs, run_package, spec

READY_SECONDS = 120.0
"""A bento takes ten seconds to start on an idle machine."""


@pytest.fixture
def stage(tmp_path: Path, ledger_url: str) -> Iterator[Stage]:
    """Return an installation whose controller is at work."""
    settings = Settings(home=tmp_path / "home", ledger=ledger_url, **own_ranges())
    with installed(settings, tmp_path / "scratch") as made, controlled(made, MODEL_NAME):
        yield made


def packaged(stage: Stage, seed: int) -> rollout.Inputs:
    """Package random weights and return what their run would release."""
    folder = stage.scratch / str(seed)
    folder.mkdir(parents=True)
    inputs = make_inputs(stage.store, make_model(folder / "model", seed=seed), folder)
    quick = spec().model_copy(update={"rollout": RolloutConfig.model_validate(QUICK)})
    result = run_package(stage.store, inputs, folder / "package", quick)
    return rollout.Inputs(
        run=RunInfo(model=MODEL_NAME, run_id=f"run-{seed}", task_id="rollout.stage"),
        bento=result.bento,
        tag=result.tag,
        weights=inputs.model,
        evaluation=artifacts.publish_files(stage.store, "evaluation", {"report.json": b"{}"}, folder),
        evaluated_against=stage.champion,
        perplexity=70.0,
        perplexity_low=69.0,
        perplexity_high=71.0,
        spec=artifacts.publish_files(stage.store, "spec", {"spec.json": quick.canonical()}, folder),
    )


def test_a_real_bento_is_released_survives_its_supervisors_death_and_is_replaced(stage: Stage) -> None:
    first = packaged(stage, seed=1)
    released = stage.release(first)
    assert (released.outcome, released.digest) == (Outcome.PROMOTED, first.weights.digest)

    supervisor = stage.supervisor_of_copy()
    assert supervisor is not None
    workers = supervisor.children(recursive=True)
    assert workers, "BentoML serves in worker processes"
    supervisor.kill()
    wait_for(lambda: stage.supervisor_of_copy() not in (None, supervisor), "a new supervisor", READY_SECONDS)
    wait_for(lambda: not any(map(is_alive, workers)), "the orphaned workers are ended", READY_SECONDS)
    wait_for(lambda: answers(released.endpoint), "the copy is back", READY_SECONDS)

    second = packaged(stage, seed=2)
    replaced = stage.release(second)
    assert (replaced.version, replaced.digest) == (2, second.weights.digest)
    completion = {"model": MODEL_NAME, "prompt": "Return the", "max_tokens": 4, "temperature": 0}
    answer = httpx.post(f"{replaced.endpoint}/v1/completions", json=completion, trust_env=False, timeout=60)
    assert answer.headers["X-Slipway-Digest"] == second.weights.digest
    assert len(stage.copies()) == 1
    assert record.run(record.Inputs(run=second.run), stage.settings) == replaced
    skipped = rollback.begin(rollback.Inputs(run=second.run), stage.settings)
    assert isinstance(skipped, rollback.Result)
    assert skipped.is_skipped


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs; one that nobody has reaped does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
