"""Fixed-seed samples: what a candidate says, for people to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.formats.records import Sample
from pipelines.inference.request import SamplingParams

if TYPE_CHECKING:
    from pipelines.inference.engine import Engine
    from pipelines.spec import EvaluationConfig

TEMPERATURES = (0.0, 0.8)
"""The most likely answer and a typical one."""

TOP_P = 0.95
"""Nucleus of the typical one."""


def draw_samples(engine: Engine, config: EvaluationConfig) -> tuple[Sample, ...]:
    """Return answers to the spec's prompts; prompts that do not fit the model's context are shortened from the left."""
    samples = []
    for prompt in config.sample_prompts:
        max_tokens = min(config.sample_tokens, engine.context_limit - 1)
        tokens = engine.encode(prompt)[-(engine.context_limit - max_tokens) :]
        for temperature in TEMPERATURES:
            params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=TOP_P, seed=config.seed)
            answer = engine.generate(tokens, params).text
            samples.append(Sample(prompt=prompt, answer=answer, temperature=temperature))
    return tuple(samples)
