"""Benchmark of the training loop: Slipway's own against a bare torch loop on the same model, data and optimizer.

    python -m tests.benchmarks.bench_training

Bar: >= 0.95x the tokens/s of the bare loop. Rounds are paired and interleaved, so a busy machine slows both sides
alike. Slipway's side also pays for its readings and for the checkpoint at its end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.loop import Training
from pipelines.training.model import build_model
from pipelines.training.strategies.single import SingleRank

BAR = 0.95
VOCABULARY_SIZE = 2048
NUM_TOKENS = 100_000
ARCHITECTURE = ArchitectureConfig(hidden_size=128)
CPU = torch.device("cpu")


def make_job(folder: Path, steps: int) -> TrainingJob:
    """Lay out a training of the demo's size on random tokens, with one checkpoint at its end."""
    tokens = np.random.default_rng(0).integers(1, VOCABULARY_SIZE, NUM_TOKENS)
    write_shards(
        folder / "tokens",
        {"train": [EncodedDocument(id="all", tokens=tokens)]},
        vocabulary_size=VOCABULARY_SIZE,
        eos_id=0,
    )
    job = TrainingJob(
        architecture=ARCHITECTURE,
        training=TrainingConfig(max_steps=steps, warmup_steps=1, batch_size=4, checkpoint_every_steps=steps),
        tokens=folder / "tokens",
        tokenizer=folder,
        workspace=folder / "work",
        store_url=f"file://{folder / 'store'}",
        checkpoints="checkpoints/bench",
    )
    job.save()
    return job


@dataclass(frozen=True)
class Seconds:
    """How long one side took."""

    wall: float
    cpu: float
    """Of all threads: not disturbed by what else the machine does."""


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Seconds:
        """Return the time since the start."""
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def run_slipway(job: TrainingJob, number: int) -> Seconds:
    """Take all steps with Slipway's loop."""
    training = Training(job.model_copy(update={"checkpoints": f"checkpoints/{number}"}), SingleRank(CPU))
    watch = Stopwatch()
    training.run()
    return watch.read()


def run_bare(job: TrainingJob) -> Seconds:
    """Take as many steps with a loop that does nothing but train, from tokens in memory."""
    config = job.training
    model = build_model(job.architecture, vocabulary_size=VOCABULARY_SIZE, eos_id=0, seed=config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    shape = (config.max_steps, config.batch_size, config.sequence_length + 1)
    batches = torch.from_numpy(np.random.default_rng(1).integers(1, VOCABULARY_SIZE, shape))
    watch = Stopwatch()
    for batch in batches:
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return watch.read()


def run_pair(job: TrainingJob, number: int) -> tuple[Seconds, Seconds]:
    """Measure both sides, the one first that was second in the round before."""
    if number % 2:
        bare = run_bare(job)
        return run_slipway(job, number), bare
    return run_slipway(job, number), run_bare(job)


def describe(name: str, ratios: list[float]) -> str:
    """Return the median of paired ratios with a bootstrap interval."""
    resampled = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{name}: {statistics.median(ratios):.3f}x (95 % CI {low:.3f}-{high:.3f}, {len(ratios)} rounds)"


def main() -> None:
    """Run paired rounds and print the ratios with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds (default 9)")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps per round and side (default 20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), arguments.steps)
        run_bare(job)  # first calls allocate
        pairs = [run_pair(job, number) for number in range(arguments.rounds)]
    tokens = arguments.steps * job.training.batch_size * job.training.sequence_length
    print(f"training: {tokens / statistics.median(slipway.wall for slipway, _ in pairs):,.0f} tokens/s in one process")
    print(describe(f"training over a bare torch loop, bar {BAR:g}x", [bare.wall / own.wall for own, bare in pairs]))
    print(describe("the same per CPU second", [bare.cpu / own.cpu for own, bare in pairs]))


if __name__ == "__main__":
    main()
