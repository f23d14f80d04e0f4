"""Which machine of a training this is, and what one does that helps the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import RanksFailed, TrainingDiverged
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training import assistance
from pipelines.training.job import TrainingJob
from pipelines.training.nodes import Meeting, Place

SECOND = Place(num_nodes=2, node_rank=1, address="127.0.0.1")


def test_outside_a_job_a_process_is_the_only_machine() -> None:
    assert Place.of({"JOB_COMPLETION_INDEX": "3"}) == Place(num_nodes=1, node_rank=0, address="127.0.0.1")


def test_a_pod_learns_its_place_from_its_environment() -> None:
    environment = {
        "SLIPWAY_NODES": "4",
        "JOB_COMPLETION_INDEX": "3",
        "SLIPWAY_NODE_ADDRESS": "10.0.0.8",
        "SLIPWAY_FIRST_NODE": "train-0.train",
    }
    place = Place.of(environment)
    assert place == Place(num_nodes=4, node_rank=3, address="10.0.0.8", first_node="train-0.train")
    assert place.local_ranks(8) == 2


class Starts(Meeting):
    """A first machine that starts some times, and is then done."""

    def __init__(self, *, times: int) -> None:
        self.left = times

    def wait(self, place: Place) -> Place | None:
        self.left -= 1
        return place.model_copy(update={"endpoint": "127.0.0.1:1"}) if self.left >= 0 else None


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        architecture=ArchitectureConfig(),
        training=TrainingConfig(ranks=2),
        tokens=tmp_path,
        tokenizer=tmp_path,
        workspace=tmp_path / "work",
        store_url=f"file://{tmp_path}",
        checkpoints="checkpoints/k",
        place=SECOND,
    )


def test_a_helper_joins_each_start_in_a_workspace_of_its_own(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[Path] = []

    def supervise(here: TrainingJob, _report: object) -> None:
        joined.append(here.workspace)
        raise RanksFailed("rank 1 died with the first machine")

    monkeypatch.setattr(assistance, "supervise", supervise)
    assistance.help_first_node(job, Starts(times=2))
    assert joined == [job.workspace / "start-1", job.workspace / "start-2"]


def test_a_helper_whose_rank_knows_why_it_fails_says_so(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def supervise(_here: TrainingJob, _report: object) -> None:
        raise TrainingDiverged("the loss is nan")

    monkeypatch.setattr(assistance, "supervise", supervise)
    with pytest.raises(TrainingDiverged, match="the loss is nan"):
        assistance.help_first_node(job, Starts(times=1))
