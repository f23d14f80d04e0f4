"""Which run is replayed, and what the command's exit status says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import __main__ as cli
from pipelines import replay as replaying
from pipelines.errors import ArtifactMissing, BadInput
from pipelines.replay import replay
from pipelines.settings import Settings
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store
from pipelines.training.comparison import Difference, LossDifference, WeightsDifference

EQUAL = WeightsDifference(num_tensors=3, num_different_tensors=0, largest=0.0, largest_name="", relative=0.0)
DIFFERENT = EQUAL.model_copy(update={"num_different_tensors": 1, "largest": 0.5, "largest_name": "head"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def leave(settings: Settings, model: str, task_id: str, try_number: int = 1, **result: Any) -> None:
    info = RunInfo(model=model, run_id="manual__1", task_id=task_id, try_number=try_number)
    receipt = Receipt(step=task_id, run=info, key="k", started=1.0, seconds=1.0, result=result)
    Store(settings.store_url()).put(info.receipt_uri, receipt.encode())


def replayed(settings: Settings, model: str = "") -> Difference:
    return replay("manual__1", model, settings, print)


def test_an_unknown_run_is_refused(settings: Settings) -> None:
    with pytest.raises(BadInput, match="has no run 'manual__1'"):
        replayed(settings)


def test_a_run_of_several_models_is_asked_about(settings: Settings) -> None:
    leave(settings, "one", "train")
    leave(settings, "two", "train")
    with pytest.raises(BadInput, match="'manual__1' is a run of one, two; give one of them with --model"):
        replayed(settings)
    with pytest.raises(BadInput, match="of two has no receipt of freeze"):
        replayed(settings, "two")


def test_a_run_that_did_not_train_is_refused(settings: Settings) -> None:
    leave(settings, "one", "freeze")
    with pytest.raises(BadInput, match="has no receipt of train: it did not get so far"):
        replayed(settings)


def test_a_run_whose_inputs_are_gone_is_refused(settings: Settings) -> None:
    leave(settings, "one", "freeze", spec={"kind": "spec", "digest": "0" * 64})
    leave(settings, "one", "train", try_number=1)
    leave(settings, "one", "train", try_number=2)
    with pytest.raises(ArtifactMissing, match=r"train/2\.inputs\.json is gone"):
        replayed(settings)


@pytest.mark.parametrize(("weights", "status"), [(EQUAL, 0), (DIFFERENT, 1)], ids=["equal", "different"])
def test_the_exit_status_says_whether_all_bits_are_equal(
    weights: WeightsDifference,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses = LossDifference(first_different_step=None, largest=0.0, final=0.0)
    found = Difference(weights=weights, losses=losses, circumstances=())
    monkeypatch.setattr(replaying, "replay", lambda *_: found)
    monkeypatch.setattr("sys.argv", ["python -m pipelines", "train", "replay", "manual__1"])
    assert cli.main() == status
    assert f"{'equal' if status == 0 else 'different'} bits" in capsys.readouterr().out
