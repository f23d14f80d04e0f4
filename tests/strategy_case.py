"""Trainings of one strategy after another on the same few processes, without torchrun: they start once for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipelines.spec import TrainingConfig
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.metrics import Reading, read_metrics
from tests.rank_processes import run_ranks
from tests.training_case import make_case


@dataclass(frozen=True)
class Scenario:
    """One training."""

    name: str
    ranks: int
    """The first so many processes take part."""

    training: Mapping[str, Any]
    """Keys of the spec's section."""

    goes_on: str = ""
    """Scenario whose checkpoints this one finds."""

    from_step: int = 0
    """Step of the newest of them; later ones are removed."""

    is_told_to_stop: bool = False
    killed_at: Mapping[int, int] = field(default_factory=dict)
    """Ranks that are killed, and after which step."""

    killed_while_saving: int | None = None
    """Rank that is killed while all write the first checkpoint."""


class Trained:
    """What scenarios left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def job(self, scenario: Scenario) -> TrainingJob:
        """Return what the ranks are told."""
        case = self._folder / "case"
        return TrainingJob(
            architecture={
                "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 2,
                "context_length": 64,
            },
            training=TrainingConfig.model_validate({"ranks": scenario.ranks, **scenario.training}),
            tokens=case / "tokens",
            tokenizer=case / "tokenizer",
            workspace=self._folder / scenario.name,
            store_url=f"file://{self._folder / 'store'}",
            checkpoints=f"checkpoints/{scenario.goes_on or scenario.name}",
        )  # fmt: skip

    def weights(self, name: str, rank: int = 0) -> Mapping[str, torch.Tensor]:
        """Return the weights that a rank ended with."""
        return safetensors.torch.load_file(self._folder / name / f"weights-{rank}.safetensors")

    def readings(self, name: str) -> list[Reading]:
        """Return what rank 0 read."""
        return read_metrics(self._folder / name / "metrics.jsonl")

    def resumed_from(self, name: str) -> int:
        """Return after which step a training went on."""
        return Resumption.model_validate_json((self._folder / name / "resumption.json").read_bytes()).step

    def is_finished(self, name: str) -> bool:
        """Return whether a model was left."""
        return (self._folder / name / "model" / "model.safetensors").is_file()

    def checkpoint_steps(self, name: str) -> list[int]:
        """Return the steps of complete checkpoints."""
        found = (self._folder / "store" / "checkpoints" / name).glob("step-*/manifest.json")
        return sorted(int(file.parent.name.removeprefix("step-")) for file in found)


def train_all(folder: Path, scenarios: Sequence[Scenario]) -> Trained:
    """Train one scenario after the other, as many processes as the largest needs."""
    (folder / "case").mkdir()
    make_case(folder / "case")
    trained = Trained(folder)
    for scenario in scenarios:
        job = trained.job(scenario)
        job.save()
        if scenario.is_told_to_stop:
            job.stop_file.touch()
    count = max(scenario.ranks for scenario in scenarios)
    killed = {rank for scenario in scenarios for rank in scenario.killed_at}
    killed |= {each.killed_while_saving for each in scenarios if each.killed_while_saving is not None}
    run_ranks(count, _be_rank, folder, scenarios, killed=killed)
    return trained


def _be_rank(rank: int, folder: Path, scenarios: Sequence[Scenario]) -> None:
    for scenario in scenarios:
        if rank < scenario.ranks:
            os.environ |= {"WORLD_SIZE": str(scenario.ranks), "LOCAL_WORLD_SIZE": str(scenario.ranks)}
            _train(rank, Trained(folder), scenario)


def _train(rank: int, trained: Trained, scenario: Scenario) -> None:
    from pipelines.training.checkpoints.writer import StoreWriter
    from pipelines.training.loop import train
    from pipelines.training.strategies import open_strategy
    from pipelines.training.supervision.heartbeat import LiveState

    job = trained.job(scenario)
    if rank == 0 and scenario.goes_on:
        _forget_checkpoints(job, scenario.from_step)
    with open_strategy(job.training, job.workspace / "rendezvous") as strategy:
        models: list[torch.nn.Module] = []
        if rank == scenario.killed_while_saving:
            StoreWriter.write_data = _die
        strategy.after_step = _watched(strategy.after_step, models, scenario.killed_at.get(rank, 0))
        train(job, strategy, LiveState())
    weights = {name: weight.detach().clone() for name, weight in models[0].named_parameters()}
    safetensors.torch.save_file(weights, job.workspace / f"weights-{rank}.safetensors")


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _watched(
    after_step: Callable[[torch.nn.Module, int], None], models: list[torch.nn.Module], killed_at: int
) -> Callable[[torch.nn.Module, int], None]:
    """Keep the model that is trained, and die after a step."""

    def watched(model: torch.nn.Module, step: int) -> None:
        models[:] = [model]
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        after_step(model, step)

    return watched


def _forget_checkpoints(job: TrainingJob, newest: int) -> None:
    folder = Path(job.store_url.removeprefix("file://")) / job.checkpoints
    for manifest in folder.glob("step-*/manifest.json"):
        if int(manifest.parent.name.removeprefix("step-")) > newest:
            manifest.unlink()
