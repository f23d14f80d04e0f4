"""The learning rate of each step."""

from __future__ import annotations

import math

from pipelines.spec import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then a cosine down to the smallest.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts.
    """
    peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_fraction
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.max_steps - 1 - config.warmup_steps)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
