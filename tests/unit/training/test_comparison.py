"""Two trainings compared: weights bit by bit, losses step by step, circumstances line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.training.comparison import Difference, compare_losses, compare_weights, outcome_text
from pipelines.training.determinism import Determinism, differences
from pipelines.training.metrics import Reading


def folder(path: Path, **tensors: list[float]) -> Path:
    path.mkdir()
    save_file({name: np.array(values, np.float32) for name, values in tensors.items()}, path / "model.safetensors")
    return path


def readings(*losses: float) -> list[Reading]:
    return [
        Reading(
            step=step, loss=loss, learning_rate=0.1, gradient_norm=1.0, tokens=step, tokens_per_second=1.0,
            seconds=1.0, eta_seconds=0.0, at=0.0,
        )
        for step, loss in enumerate(losses, start=1)
    ]  # fmt: skip


def determinism(torch: str = "2.13.0", threads: str = "1", num_ranks: int = 2) -> Determinism:
    return Determinism(
        seed=1,
        versions={"torch": torch},
        hardware=({"processor": "p"},) * num_ranks,
        flags={"threads": threads},
        code="a" * 64,
        inputs={"tokens": "t"},
        outputs={},
        resumed_from_step=0,
    )


def test_equal_bits_are_equal(tmp_path: Path) -> None:
    weights = compare_weights(folder(tmp_path / "a", w=[1, 2]), folder(tmp_path / "b", w=[1, 2]))
    assert weights.is_equal
    losses = compare_losses(readings(3.0, 2.0), readings(3.0, 2.0))
    text = outcome_text(Difference(weights=weights, losses=losses, circumstances=()))
    assert text.startswith("equal bits: 1 tensors\nversions, hardware, flags, code and inputs are as they were")


def test_a_difference_is_measured_and_named(tmp_path: Path) -> None:
    weights = compare_weights(
        folder(tmp_path / "a", same=[4], w=[0, 3]), folder(tmp_path / "b", same=[4], w=[0.25, 2.5])
    )
    assert (weights.num_tensors, weights.num_different_tensors) == (2, 1)
    assert (weights.largest, weights.largest_name) == (0.5, "w")
    assert weights.relative == pytest.approx(np.sqrt(0.25**2 + 0.5**2) / 5)
    losses = compare_losses(readings(3.0, 2.0, 1.0), readings(3.0, 2.5, 0.75))
    assert (losses.first_different_step, losses.largest, losses.final) == (2, 0.5, -0.25)
    text = outcome_text(Difference(weights=weights, losses=losses, circumstances=("version torch: 1, then 2",)))
    assert text.splitlines() == [
        "different bits: 1 of 2 tensors; by at most 0.5 (w), 0.112 of the weights' norm",
        "loss: different from step 2 on, by at most 0.5, at the end by -0.25 nats per token",
        "not as it was: version torch: 1, then 2",
    ]


def test_a_zero_of_another_sign_is_another_bit(tmp_path: Path) -> None:
    assert not compare_weights(folder(tmp_path / "a", w=[0.0]), folder(tmp_path / "b", w=[-0.0])).is_equal


def test_a_tensor_that_is_missing_is_a_difference(tmp_path: Path) -> None:
    weights = compare_weights(folder(tmp_path / "a", w=[1], v=[1]), folder(tmp_path / "b", w=[1]))
    assert (weights.num_different_tensors, weights.largest_name) == (1, "v")


def test_circumstances_that_differ_are_named() -> None:
    assert differences(determinism(), determinism()) == []
    assert differences(determinism(), determinism(torch="2.14.0", threads="2", num_ranks=1)) == [
        "version torch: 2.13.0, then 2.14.0",
        "flag threads: 1, then 2",
        "ranks: 2, then 1",
    ]
