"""The learning rate of each step."""

from __future__ import annotations

import pytest

from pipelines.spec import TrainingConfig
from pipelines.training.schedule import learning_rate

CONFIG = TrainingConfig(learning_rate=1e-2, min_learning_rate_fraction=0.1, warmup_steps=4, max_steps=105)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(0, 0.25e-2, id="first-step-learns"),
        pytest.param(3, 1e-2, id="warm-up-ends-at-the-peak"),
        pytest.param(4, 1e-2, id="cosine-starts-at-the-peak"),
        pytest.param(54, 0.55e-2, id="half-way-down"),
        pytest.param(104, 0.1e-2, id="last-step-is-at-the-floor"),
        pytest.param(999, 0.1e-2, id="never-below-the-floor"),
    ],
)
def test_warm_up_and_cosine(step: int, expected: float) -> None:
    assert learning_rate(step, CONFIG) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(3, 1e-2, id="warm-up-ends-at-the-peak"),
        pytest.param(83, 1e-2, id="the-peak-is-kept-for-four-fifths"),
        pytest.param(84, 1e-2 - 0.9e-2 * (1 / 21) ** 0.5, id="then-it-falls-at-once"),
        pytest.param(104, 0.1e-2, id="last-step-is-at-the-floor"),
        pytest.param(999, 0.1e-2, id="never-below-the-floor"),
    ],
)
def test_warm_up_stable_and_decay(step: int, expected: float) -> None:
    assert learning_rate(step, CONFIG.model_copy(update={"schedule": "wsd"})) == pytest.approx(expected)


def test_a_constant_rate_stays_at_the_peak() -> None:
    config = CONFIG.model_copy(update={"schedule": "constant"})
    assert [learning_rate(step, config) for step in (1, 4, 104)] == pytest.approx([0.5e-2, 1e-2, 1e-2])


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_the_rate_never_rises_after_warm_up(schedule: str) -> None:
    config = CONFIG.model_copy(update={"schedule": schedule})
    rates = [learning_rate(step, config) for step in range(config.warmup_steps, config.max_steps)]
    assert rates == sorted(rates, reverse=True)


def test_one_step_without_warm_up_uses_the_peak() -> None:
    assert learning_rate(0, TrainingConfig(learning_rate=0.5, warmup_steps=0, max_steps=1)) == pytest.approx(0.5)
