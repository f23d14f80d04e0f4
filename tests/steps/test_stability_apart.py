"""Losses out of order on one rank of those that hold models of their own: who decides, who is told, what is learnt."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import multiprocessing

from pipelines.errors import TrainingDiverged
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.loss import NextTokenLoss
from pipelines.training.metrics import read_metrics
from pipelines.training.supervision.events import Event, read_events
from tests.training_case import make_case

STEPS = 10
BAD_STEP = 7
"""Step whose loss is out of order, on rank 1 alone."""

DEADLINE_SECONDS = 300.0
DILOCO = {"kind": "diloco", "inner_steps": 4, "overlap_steps": 2, "worker_timeout_seconds": 2}
SERVER = {"kind": "parameter_server", "max_staleness": 0}
SKIP_SPIKES = {"spike": "skip", "window_steps": 5, "spike_factor": 3.0}


@dataclass(frozen=True)
class Scenario:
    """One training."""

    name: str
    ranks: int
    strategy: Mapping[str, Any]
    stability: Mapping[str, Any]
    factor: float = math.nan
    """By what the bad loss is multiplied."""

    def job(self, folder: Path) -> TrainingJob:
        """Return what all of its ranks are told."""
        training = {
            "ranks": self.ranks, "strategy": self.strategy, "stability": self.stability, "max_steps": STEPS,
            "batch_size": 4, "sequence_length": 16, "warmup_steps": 0, "precision": "fp32",
            "checkpoint_every_steps": STEPS,
        }  # fmt: skip
        sizes = {
            "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 2,
            "context_length": 32,
        }  # fmt: skip
        return TrainingJob(
            architecture=ArchitectureConfig.model_validate(sizes),
            training=TrainingConfig.model_validate(training),
            tokens=folder / "case" / "tokens",
            tokenizer=folder / "case" / "tokenizer",
            workspace=folder / self.name,
            store_url=f"file://{folder / 'store'}",
            checkpoints=f"checkpoints/{self.name}",
            read_every_steps=1,
        )


SCENARIOS = [
    Scenario("server-skips", 3, SERVER, {"non_finite": "skip"}),
    Scenario("server-skips-a-spike", 3, SERVER, SKIP_SPIKES, factor=100.0),
    Scenario("server-ignores-a-spike", 3, SERVER, {}, factor=100.0),
    Scenario("worker-skips", 2, DILOCO, {"non_finite": "skip"}),
    Scenario("worker-skips-a-spike", 2, DILOCO, SKIP_SPIKES, factor=100.0),
    Scenario("worker-stops", 2, DILOCO, {"non_finite": "stop"}),
    Scenario("server-stops", 2, SERVER, {"non_finite": "stop"}),  # the last: who waits for the server must be told
]


class Trained:
    """What scenarios left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def incidents(self, name: str) -> list[Event]:
        """Return what was told of losses out of order."""
        return read_events(self._folder / name / "incidents.jsonl")

    def weights(self, name: str) -> Mapping[str, torch.Tensor]:
        """Return what was published."""
        return safetensors.torch.load_file(self._folder / name / "model" / "model.safetensors")

    def steps(self, name: str) -> list[int]:
        """Return the steps that rank 0 read."""
        return [reading.step for reading in read_metrics(self._folder / name / "metrics.jsonl")]

    def moves(self, name: str, rank: int = 0) -> list[bool]:
        """Return, step by step, whether a rank's weights changed."""
        moves: list[bool] = json.loads((self._folder / name / f"moves-{rank}.json").read_bytes())
        return moves

    def refusal(self, name: str, rank: int) -> str:
        """Return why a rank stopped; empty: it did not."""
        file = self._folder / name / f"refusal-{rank}.txt"
        return file.read_text() if file.is_file() else ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train one scenario after the other; their ranks share one run each."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "case").mkdir()
    make_case(folder / "case")
    for scenario in SCENARIOS:
        scenario.job(folder).save()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.training.loop", "pipelines.training.strategies", __name__])
    processes = [context.Process(target=be_rank, args=(rank, folder, SCENARIOS), daemon=True) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_SECONDS)
    assert [process.exitcode for process in processes] == [0] * 3
    return Trained(folder)


def be_rank(rank: int, folder: Path, scenarios: Sequence[Scenario]) -> None:
    """Be one rank of each scenario that has so many."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    for scenario in scenarios:
        if rank < scenario.ranks:
            os.environ |= {"WORLD_SIZE": str(scenario.ranks), "LOCAL_WORLD_SIZE": str(scenario.ranks)}
            train(rank, scenario, scenario.job(folder))


def train(rank: int, scenario: Scenario, job: TrainingJob) -> None:
    """Train as one rank, and leave why it stopped."""
    from pipelines.training import loop
    from pipelines.training.strategies import open_strategy
    from pipelines.training.supervision.heartbeat import LiveState

    loop.NextTokenLoss = bad_on_one_rank(rank, scenario.factor)  # type: ignore[misc]  # nothing else runs here
    refusal = job.workspace / f"refusal-{rank}.txt"
    try:
        with open_strategy(job.training, job.workspace / "rendezvous") as strategy:
            moves: list[bool] = []
            strategy.after_step = watched(strategy.after_step, moves)
            loop.train(job, strategy, LiveState())
    except TrainingDiverged as error:
        refusal.write_text(str(error))
    except RuntimeError as error:  # of gloo: the server is gone
        refusal.write_text(f"left alone: {error}")
    (job.workspace / f"moves-{rank}.json").write_text(json.dumps(moves))


def bad_on_one_rank(rank: int, factor: float) -> type[NextTokenLoss]:
    """Return a loss that is multiplied once on rank 1."""

    class Bad(NextTokenLoss):
        calls = 0

        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(windows) * (factor if rank == 1 and self.calls == BAD_STEP else 1.0)

    return Bad


def watched(
    after_step: Callable[[torch.nn.Module, int], None], moves: list[bool]
) -> Callable[[torch.nn.Module, int], None]:
    """Note at each step whether the optimizer changed the weights."""
    before = list[torch.Tensor]()

    def look(model: torch.nn.Module, step: int) -> None:
        moves.append(not before or any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)))
        after_step(model, step)
        before[:] = [weight.detach().clone() for weight in model.parameters()]

    return look


def is_finite(weights: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights.values())


def all_but_the_bad_step() -> list[bool]:
    return [step != BAD_STEP for step in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("server-skips", "rank 0: loss is nan at step 7; its batch was skipped (incident 1 of at most 10)",
                     id="non-finite"),
        pytest.param("server-skips-a-spike", "is a spike over", id="spike"),
    ],
)  # fmt: skip
def test_a_server_refuses_the_step_that_one_workers_gradient_spoils(name: str, told: str, trained: Trained) -> None:
    (incident,) = trained.incidents(name)  # workers, who decide nothing, tell of none
    assert incident.step == BAD_STEP
    assert incident.text.startswith("rank 0: ")
    assert told in incident.text
    assert trained.moves(name) == all_but_the_bad_step()
    assert trained.steps(name)[-1] == STEPS
    assert is_finite(trained.weights(name))


def test_a_server_learns_from_a_spike_where_the_spec_does_not_say_otherwise(trained: Trained) -> None:
    assert trained.incidents("server-ignores-a-spike") == []
    assert trained.moves("server-ignores-a-spike") == [True] * STEPS


@pytest.mark.parametrize("name", ["worker-skips", "worker-skips-a-spike"])
def test_a_worker_skips_its_own_bad_batch_and_the_others_go_on(name: str, trained: Trained) -> None:
    (incident,) = trained.incidents(name)
    assert incident.step == BAD_STEP
    assert incident.text.startswith("rank 1: loss ")
    assert trained.moves(name, rank=1)[BAD_STEP - 1] is False
    assert trained.moves(name, rank=0)[BAD_STEP - 1] is True
    assert trained.steps(name)[-1] == STEPS
    assert is_finite(trained.weights(name))


def test_a_worker_that_is_to_stop_says_why(trained: Trained) -> None:
    assert trained.refusal("worker-stops", rank=1).startswith(
        "training: rank 1: loss is nan at step 7; lower training."
    )
    assert trained.refusal("worker-stops", rank=0) == ""  # of torchrun it would have been told


def test_a_server_that_is_to_stop_says_why_and_its_worker_does_not_hang(trained: Trained) -> None:
    assert trained.refusal("server-stops", rank=0).startswith(
        "training: rank 0: loss is nan at step 7; lower training."
    )
    assert trained.refusal("server-stops", rank=1).startswith("left alone: ")
