"""The demo specs of the strategies: there is one for each, it is valid, and it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from pipelines.artifacts import ArtifactRef
from pipelines.lifecycle import inputs_of
from pipelines.runner import WorkStep
from pipelines.settings import REPOSITORY, Settings
from pipelines.spec import TrainingConfig, load_spec
from pipelines.step import Receipt, RunInfo
from tests.steps.step_run import settings_in

FOLDER = REPOSITORY / "docs" / "specs"
KINDS = [kind.model_fields["kind"].default for kind in get_args(TrainingConfig.model_fields["strategy"].annotation)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_demo_spec_is_valid(path: Path) -> None:
    assert load_spec(path).data.source.kind == "python-docs"


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy_has_a_demo_spec(kind: str) -> None:
    assert load_spec(FOLDER / f"{kind}.yaml").training.strategy.kind == kind


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return one store for all specs: those that prepare their data alike do it once."""
    return settings_in(tmp_path_factory.mktemp("demo-specs"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_demo_spec_trains(kind: str, settings: Settings) -> None:
    spec, spec_uri = load_spec(FOLDER / f"{kind}.yaml"), str(FOLDER / f"{kind}.yaml")
    receipts: dict[str, Receipt] = {}
    for name in ("freeze", "validate", "prepare", "train"):
        info = RunInfo(model=spec.name, run_id="r1", task_id=name)
        inputs: dict[str, Any] = {} if name == "freeze" else inputs_of(name, receipts, lambda: None)
        receipts[name] = WorkStep(name, spec_uri, info, settings).run(inputs, print)
        spec_uri = ArtifactRef.model_validate(receipts["freeze"].result["spec"]).uri
    trained = receipts["train"].result
    assert trained["steps"] == spec.training.max_steps
    assert trained["final_loss"] < 7.4  # before the first step, all 2,048 tokens are alike: 7.6
