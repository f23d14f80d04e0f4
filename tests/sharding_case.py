"""Short trainings by one strategy after another, through the real loop, on a few processes that start once for all."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipelines.errors import SlipwayError
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.metrics import Reading, read_metrics
from tests.rank_processes import run_ranks
from tests.training_case import make_case

WITHOUT_GROUPS = ("gpt2", "gpt_neox")
_COMPILE = torch.compile
TRAINING = {
    "max_steps": 3, "batch_size": 8, "accumulation_steps": 2, "sequence_length": 16, "warmup_steps": 0,
    "learning_rate": 0.01, "precision": "fp32", "clip_norm": 0.5, "checkpoint_every_steps": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One training."""

    name: str
    training: Mapping[str, Any]
    """Keys of the spec's section that differ."""

    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the spec's section that differ."""

    goes_on: str = ""
    """Scenario whose checkpoint before the last this one finds."""


class Trained:
    """What scenarios left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def job(self, scenario: Scenario) -> TrainingJob:
        """Return what the ranks are told."""
        groups = 4 if scenario.architecture.get("model_type") in WITHOUT_GROUPS else 2
        sizes = {
            "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 4, "num_key_value_heads": groups,
            "context_length": 32,
        }  # fmt: skip
        return TrainingJob(
            architecture=ArchitectureConfig.model_validate({**sizes, **scenario.architecture}),
            training=TrainingConfig.model_validate({**TRAINING, **scenario.training}),
            tokens=self._folder / "case" / "tokens",
            tokenizer=self._folder / "case" / "tokenizer",
            workspace=self._folder / scenario.name,
            store_url=f"file://{self._folder / 'store'}",
            checkpoints=f"checkpoints/{scenario.goes_on or scenario.name}",
            read_every_steps=1,
        )

    def readings(self, name: str) -> list[Reading]:
        """Return what rank 0 read, one step at a time."""
        return read_metrics(self._folder / name / "metrics.jsonl")

    def resumed_from(self, name: str) -> int:
        """Return after which step a training went on."""
        return Resumption.model_validate_json((self._folder / name / "resumption.json").read_bytes()).step

    def weights(self, name: str) -> Mapping[str, torch.Tensor]:
        """Return the weights that were left for publishing."""
        return safetensors.torch.load_file(self._folder / name / "model" / "model.safetensors")

    def held_bytes(self, name: str, rank: int) -> Mapping[str, int]:
        """Return how many bytes of weights and of optimizer state a rank held."""
        held: Mapping[str, int] = json.loads((self._folder / name / f"held-{rank}.json").read_bytes())
        return held

    def refusal(self, name: str) -> str:
        """Return why a training did not begin."""
        return (self._folder / name / "refusal.txt").read_text()


def train_all(folder: Path, scenarios: Sequence[Scenario]) -> Trained:
    """Train one scenario after the other, each by as many processes as it has ranks."""
    case = folder / "case"
    case.mkdir()
    make_case(case)
    trained = Trained(folder)
    jobs = [trained.job(scenario) for scenario in scenarios]
    for job in jobs:
        job.save()
    run_ranks(max(job.training.ranks for job in jobs), _be_rank, folder, scenarios)
    return trained


def _be_rank(rank: int, folder: Path, scenarios: Sequence[Scenario]) -> None:
    for scenario in scenarios:
        job = Trained(folder).job(scenario)
        if rank < job.training.ranks:
            os.environ |= {"WORLD_SIZE": str(job.training.ranks), "LOCAL_WORLD_SIZE": str(job.training.ranks)}
            if rank == 0 and scenario.goes_on:
                _forget_newest_checkpoint(job)
            _train(rank, job)


def _train(rank: int, job: TrainingJob) -> None:
    from pipelines.training.loop import train
    from pipelines.training.strategies import open_strategy
    from pipelines.training.supervision.heartbeat import LiveState

    def measure(optimizer: torch.optim.Optimizer, *_: object) -> None:
        states = [value for state in optimizer.state.values() for value in state.values()]
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        held = {"weights": sum(map(_local_bytes, weights)), "optimizer": sum(map(_local_bytes, states))}
        (job.workspace / f"held-{rank}.json").write_text(json.dumps(held))

    hook = register_optimizer_step_post_hook(measure)
    torch.compile = functools.partial(_COMPILE, backend="aot_eager")  # graphs and gradients, without a compiler's time
    try:
        with open_strategy(job.training, job.workspace / "rendezvous") as strategy:
            train(job, strategy, LiveState())
    except SlipwayError as refusal:
        (job.workspace / "refusal.txt").write_text(f"{type(refusal).__name__}: {refusal}")
    finally:
        hook.remove()


def _local_bytes(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()


def _forget_newest_checkpoint(job: TrainingJob) -> None:
    folder = Path(job.store_url.removeprefix("file://")) / job.checkpoints
    max(folder.glob("step-*/manifest.json")).unlink()
