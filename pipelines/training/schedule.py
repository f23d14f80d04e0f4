"""The learning rate of each step."""

from __future__ import annotations

import math

from pipelines.spec import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then what `config.schedule` says."""
    peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_fraction
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    return floor + (peak - floor) * _share_left(step, config)


def _share_left(step: int, config: TrainingConfig) -> float:
    """Return how much is left of the way from the peak down to the smallest learning rate, 1 to 0."""
    match config.schedule:
        case "cosine":
            return _cosine(step, config)
        case "wsd":
            return _cooldown(step, config)
        case "constant":
            return 1.0


def _cosine(step: int, config: TrainingConfig) -> float:
    """Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts."""
    done = (step - config.warmup_steps) / max(1, config.max_steps - 1 - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _cooldown(step: int, config: TrainingConfig) -> float:
    """Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024: 1 - sqrt."""
    num_steps = max(1, round(config.decay_fraction * config.max_steps))
    done = (step + 1 - (config.max_steps - num_steps)) / num_steps
    return 1.0 - math.sqrt(min(1.0, max(0.0, done)))
