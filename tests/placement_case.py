"""Trainings that begin and publish on two ranks, without a step between: which weights, and how much memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from tests.own_memory import watched
from tests.rank_processes import run_ranks
from tests.training_case import make_case

RANKS = 2
SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 2,
    "context_length": 32,
}  # fmt: skip
LARGE = {**SMALL, "hidden_size": 256, "intermediate_size": 1024, "num_layers": 16}
"""67 MB of weights, 4 MB of them in a layer."""


@dataclass(frozen=True)
class Scenario:
    """One training."""

    name: str
    strategy: str
    architecture: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    start: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the spec's section; `weights` is the name of a folder."""

    file_bytes: int = 2**31
    """Most weights in one file."""


class Placed:
    """What scenarios left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def job(self, scenario: Scenario) -> TrainingJob:
        """Return what the ranks are told."""
        start = {**scenario.start}
        if start:
            start["weights"] = str(self._folder / start["weights"])
        training = {
            "ranks": RANKS, "strategy": scenario.strategy, "batch_size": 2, "sequence_length": 16, "warmup_steps": 0,
            "precision": "fp32", "start": start,
        }  # fmt: skip
        return TrainingJob(
            architecture=ArchitectureConfig.model_validate(scenario.architecture),
            training=TrainingConfig.model_validate(training),
            tokens=self._folder / "case" / "tokens",
            tokenizer=self._folder / "case" / "tokenizer",
            start=Path(start["weights"]) if start else None,
            workspace=self._folder / scenario.name,
            store_url=f"file://{self._folder / 'store'}",
            checkpoints=f"checkpoints/{scenario.name}",
        )

    def begun(self, name: str) -> Mapping[str, torch.Tensor]:
        """Return the whole model's weights before the first step."""
        return safetensors.torch.load_file(self._folder / name / "begun.safetensors")

    def model_folder(self, name: str) -> Path:
        """Return where the model was published."""
        return self._folder / name / "model"

    def peak_share(self, name: str, phase: str, rank: int = 0) -> float:
        """Return by how much the memory of a rank grew in a phase at most, as a share of the whole model's weights."""
        return float((self._folder / name / f"{phase}-{rank}.txt").read_text())


def place_all(folder: Path, scenarios: list[Scenario]) -> Placed:
    """Begin and publish one scenario after the other on the same two processes."""
    (folder / "case").mkdir()
    make_case(folder / "case")
    placed = Placed(folder)
    for scenario in scenarios:
        placed.job(scenario).save()
    run_ranks(RANKS, _be_rank, folder, scenarios)
    return placed


def _be_rank(rank: int, folder: Path, scenarios: list[Scenario]) -> None:
    os.environ |= {"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    for scenario in scenarios:
        _begin_and_publish(rank, Placed(folder).job(scenario), scenario)


def _begin_and_publish(rank: int, job: TrainingJob, scenario: Scenario) -> None:
    from pipelines.training import export, loop
    from pipelines.training.strategies import open_strategy

    export.MAX_FILE_BYTES = scenario.file_bytes
    with open_strategy(job.training, job.workspace / "rendezvous") as strategy:
        with watched() as growth:
            training = loop.Training(job, strategy)
        sizes = {"begin": growth[0]}
        weights = {name: weight.clone() for name, weight in strategy.full_weights(training.model)}
        if rank == 0:
            safetensors.torch.save_file(weights, job.workspace / "begun.safetensors")
        whole = sum(weight.nbytes for weight in weights.values())
        del weights
        if not job.training.start.lora:  # nothing was learnt: an adapter that did not move is not published
            with watched() as growth:
                loop.publish(job, strategy, training.model)
            sizes["publish"] = growth[0]
    for phase, size in sizes.items():
        (job.workspace / f"{phase}-{rank}.txt").write_text(str(size / whole))
