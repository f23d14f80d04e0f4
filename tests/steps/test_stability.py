"""Losses that are no numbers, or that jump: no weight sees them, and the spec says what happens then."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from pipelines.errors import SpecError, TrainingDiverged
from pipelines.spec import TrainingConfig
from pipelines.training import loop
from pipelines.training.job import TrainingJob
from pipelines.training.loss import NextTokenLoss
from pipelines.training.metrics import Reading, read_metrics
from pipelines.training.optimizer import build_optimizer
from pipelines.training.strategies import Strategy
from pipelines.training.strategies.ddp import DataParallel
from pipelines.training.strategies.single import SingleRank
from pipelines.training.supervision.events import EventKind, read_events
from pipelines.training.supervision.heartbeat import LiveState
from tests.rank_processes import run_ranks
from tests.training_case import make_case

CPU = torch.device("cpu")
BAD_STEP = 6
"""The batch that is poisoned, counted from 0: between the checkpoints after 4 and 8 steps."""


class Learnt:
    """What a training learns from, batch by batch; the loss of poisoned batches is multiplied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.poison: dict[int, float] = {}
        learnt = self

        class Watched(NextTokenLoss):
            def forward(self, windows: torch.Tensor) -> torch.Tensor:
                batch = hash(windows.numpy().tobytes())
                learnt.batches.append(batch)
                return super().forward(windows) * learnt.poison.get(batch, 1.0)

        monkeypatch.setattr(loop, "NextTokenLoss", Watched)


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> Learnt:
    """Watch what is learnt."""
    return Learnt(monkeypatch)


def make_job(folder: Path, **training: Any) -> TrainingJob:
    """Lay out a training of 12 steps with a checkpoint after every fourth."""
    folder.mkdir()
    case = make_case(folder, **training)
    job = TrainingJob(
        architecture=case.spec.architecture,
        training=case.spec.training,
        tokens=case.artifact("tokens"),
        tokenizer=case.artifact("tokenizer"),
        workspace=folder / "work",
        store_url=case.store.url,
        checkpoints="checkpoints/key",
        read_every_steps=1,
    )
    job.save()
    return job


def train(job: TrainingJob, strategy: Strategy | None = None) -> list[Reading]:
    """Train to the end; return the readings."""
    loop.train(job, strategy or SingleRank(CPU), LiveState())
    return read_metrics(job.metrics_file)


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(job.model_folder / "model.safetensors")


def poisoned(tmp_path: Path, learnt: Learnt, factor: float, **training: Any) -> TrainingJob:
    """Return a training of which one batch is bad: found by a training that nothing disturbs."""
    train(make_job(tmp_path / "unbroken", max_steps=20))
    learnt.poison = {learnt.batches[BAD_STEP]: factor}
    return make_job(tmp_path / "poisoned", **training)


def test_a_skipped_batch_leaves_no_trace_in_the_weights(tmp_path: Path, learnt: Learnt) -> None:
    job = poisoned(tmp_path, learnt, math.nan, stability={"non_finite": "skip"})
    readings = train(job)
    assert [reading.num_incidents for reading in readings] == [0] * BAD_STEP + [1] * (12 - BAD_STEP)
    assert readings[BAD_STEP].loss == readings[BAD_STEP - 1].loss  # no sound step since the reading before
    assert all(torch.isfinite(weight).all() for weight in weights(job).values())
    (incident,) = read_events(job.incidents_file)
    assert (incident.kind, incident.step) == (EventKind.INCIDENT, BAD_STEP + 1)
    assert incident.text == "loss is nan at step 7; its batch was skipped (incident 1 of at most 10)"

    learnt.poison = dict.fromkeys(learnt.poison, math.inf)
    other = make_job(tmp_path / "infinite", stability={"non_finite": "skip"})
    train(other)
    assert weights(other).keys() == weights(job).keys()
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(job).items())


def test_by_default_a_training_stops_with_step_and_value(tmp_path: Path, learnt: Learnt) -> None:
    with pytest.raises(TrainingDiverged, match=r"training: loss is nan at step 7; lower training\.learning_rate"):
        train(poisoned(tmp_path, learnt, math.nan))


def test_too_many_incidents_stop_a_training_that_would_skip(tmp_path: Path, learnt: Learnt) -> None:
    job = poisoned(tmp_path, learnt, math.nan, stability={"non_finite": "skip", "max_incidents": 2})
    learnt.poison = dict.fromkeys(learnt.batches, math.nan)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 3, and training\.stability\.max_incidents is 2"):
        train(job)


def test_a_rewind_leaves_out_the_data_from_the_checkpoint_to_the_incident(tmp_path: Path, learnt: Learnt) -> None:
    job = poisoned(tmp_path, learnt, math.nan, stability={"non_finite": "rewind"})
    order, learnt.batches = learnt.batches, []
    readings = train(job)
    assert learnt.batches == [*order[:7], *order[7:15]]  # steps 1 to 7, back to 4, steps 5 to 12
    assert [reading.step for reading in readings] == [*range(1, 13)]
    assert readings[-1].num_incidents == 1
    assert "going back, and leaving out the data up to it" in read_events(job.incidents_file)[0].text

    for file in (tmp_path / "poisoned").rglob("step-00000012/*"):
        file.unlink()
    learnt.batches = []
    train(job)
    assert learnt.batches == order[11:15]  # a resumed training knows what was left out


def test_a_rewind_frees_the_memory_of_the_weights_that_it_gives_up(
    tmp_path: Path, learnt: Learnt, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Seen(loop.Training):
        def __init__(self, *args: Any) -> None:
            alive.append(sum(weight() is not None for weight in held))
            super().__init__(*args)
            held.extend(weakref.ref(weight) for weight in self.model.parameters())

    job = poisoned(tmp_path, learnt, math.nan, stability={"non_finite": "rewind"}, activation_checkpointing=True)
    monkeypatch.setattr(loop, "Training", Seen)
    train(job)
    assert alive == [0, 0]


def test_a_rewind_without_a_checkpoint_begins_again(tmp_path: Path, learnt: Learnt) -> None:
    job = poisoned(tmp_path, learnt, math.nan, stability={"non_finite": "rewind"}, checkpoint_every_steps=12)
    order, learnt.batches = learnt.batches, []
    train(job)
    assert learnt.batches == [*order[:7], *order[7:19]]


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_spike_is_an_incident_only_where_the_spec_says_so(policy: str, tmp_path: Path, learnt: Learnt) -> None:
    spike = {"window_steps": 5, "spike_factor": 3.0}
    job = poisoned(tmp_path, learnt, 10.0, stability={"spike": policy, **spike})
    assert train(job)[-1].num_incidents == 1
    assert "is a spike over" in read_events(job.incidents_file)[0].text
    ignoring = make_job(tmp_path / "ignoring", stability=spike)
    readings = train(ignoring)
    assert readings[-1].num_incidents == 0
    assert readings[BAD_STEP].loss > 3 * readings[BAD_STEP - 1].loss


def test_a_spike_may_stop_a_training(tmp_path: Path, learnt: Learnt) -> None:
    job = poisoned(tmp_path, learnt, 10.0, stability={"spike": "stop", "window_steps": 5})
    with pytest.raises(TrainingDiverged, match=r"loss \d+\.\d+ at step 7 is a spike over \d\.\d+; lower"):
        train(job)


def test_a_fused_step_that_is_told_of_a_bad_number_changes_nothing() -> None:
    """What a GPU does, where the host does not look: torch must keep doing so."""
    layer = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(layer, TrainingConfig(), CPU)
    for flag in (0.0, 1.0):
        layer(torch.ones(1, 4)).sum().backward()
        before = {name: weight.clone() for name, weight in layer.state_dict().items()}
        optimizer.found_inf = torch.tensor(flag)
        optimizer.step()
        unchanged = [torch.equal(before[name], weight) for name, weight in layer.state_dict().items()]
        assert unchanged == [flag == 1.0] * 2
    assert {state["step"].item() for state in optimizer.state.values()} == {1.0}


class SpikingOnSecondRank(NextTokenLoss):
    """A loss that jumps once, on rank 1 alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.num_looks = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the loss; DDP looks at an example twice before the first step."""
        self.num_looks += 1
        is_bad = dist.get_rank() == 1 and self.num_looks == 2 + BAD_STEP + 1
        return super().forward(windows) * (10.0 if is_bad else 1.0)


def train_one_of_two(rank: int, folder: Path) -> None:
    """Train as one of two ranks, in a process of its own, and compare the weights with the other's."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "meeting"), 2), rank=rank, world_size=2)
    loop.NextTokenLoss = SpikingOnSecondRank  # type: ignore[misc]  # nothing else runs in this process
    job = TrainingJob.load(folder / "work" / "job.json")
    here = job.model_copy(update={"workspace": folder / f"rank-{rank}"})
    here.save()
    mine = trained_weights(here)
    all_ranks = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(all_ranks, mine)
    assert torch.equal(*all_ranks)
    dist.destroy_process_group()


def trained_weights(job: TrainingJob) -> torch.Tensor:
    """Train, and keep nothing else: a process group that outlives `destroy_process_group` may hang when it is freed."""
    training = loop.Training(job, DataParallel(CPU))
    assert training.run()
    return torch.cat([weight.detach().flatten() for weight in training.model.parameters()])


def test_ranks_decide_alike_when_only_one_of_them_sees_the_spike(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    make_job(folder, ranks=2, stability={"spike": "skip", "window_steps": 5, "spike_factor": 3.0})
    run_ranks(2, train_one_of_two, folder)
    (incident,) = read_events(folder / "rank-0" / "incidents.jsonl")
    assert incident.step == BAD_STEP + 1
    assert read_metrics(folder / "rank-0" / "metrics.jsonl")[-1].step == 12


@pytest.mark.parametrize("strategy", ["diloco", "parameter_server"])
def test_models_that_differ_cannot_go_back_together(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"non_finite rewind does not go with strategy {strategy}.*; try skip or stop"):
        make_job(tmp_path / "job", ranks=2, strategy=strategy, batch_size=2, stability={"non_finite": "rewind"})
