"""`diloco` against `ddp` over a link with a delay: tokens per second, and what was learnt from equally many tokens.

    python -m tests.benchmarks.bench_diloco

Two ranks, each in a network namespace of its own, joined by a userspace link that holds each packet for 100 ms in each
direction (`slow_link`; needs root); they also meet over it. Bars: >= 10x the tokens/s of ddp, and an evaluation loss
within 1 % of ddp's, over three seeds. What is learnt does not depend on the link, so that half runs without it. The
model reads bytes of the standard library's documentation; it is small, for with two cores a link of 100 ms is slow only
beside a short step.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.data import python_docs
from pipelines.formats.shards import EncodedDocument, TokenShards, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import read_metrics
from tests.benchmarks.slow_link import ADDRESSES, DEVICE, slow_link

SPEED_BAR, LOSS_BAR = 10.0, 0.01
END, VOCABULARY_SIZE = 256, 257
RANKS = 2
SEQUENCE_LENGTH = 64
ARCHITECTURE = ArchitectureConfig(
    hidden_size=64, intermediate_size=192, num_layers=2, num_heads=2, num_key_value_heads=2, context_length=64
)
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "diloco": {"kind": "diloco", "inner_steps": 30, "overlap_steps": 30},
}


def write_corpus(folder: Path) -> None:
    """Write the documentation of the standard library as tokens, one per byte; each 20th document is held back."""
    texts = [each["text"] for name, file in python_docs.source_files() for each in _documents(name, file)]
    documents = [EncodedDocument(id=str(number), tokens=[*text.encode()]) for number, text in enumerate(texts)]
    write_shards(
        folder,
        {"train": [each for n, each in enumerate(documents) if n % 20], "validation": documents[::20]},
        vocabulary_size=VOCABULARY_SIZE,
        eos_id=END,
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")


def _documents(name: str, file: Path) -> list[dict[str, str]]:
    return list(python_docs.documents(name, file.read_bytes()))


def make_job(folder: Path, name: str, strategy: str, *, steps: int, seed: int) -> TrainingJob:
    """Lay out one training."""
    training = {
        "ranks": RANKS, "max_steps": steps, "batch_size": 16, "sequence_length": SEQUENCE_LENGTH, "precision": "fp32",
        "warmup_steps": min(50, steps // 2), "checkpoint_every_steps": steps, "seed": seed,
        "strategy": STRATEGIES[strategy],
    }  # fmt: skip
    job = TrainingJob(
        architecture=ARCHITECTURE,
        training=TrainingConfig.model_validate(training),
        tokens=folder / "tokens",
        tokenizer=folder / "tokens",
        workspace=folder / name,
        store_url=f"file://{folder / 'store'}",
        checkpoints=f"checkpoints/{name}",
    )
    job.save()
    return job


def train(job: TrainingJob, prefixes: Sequence[Sequence[str]], environment: dict[str, str]) -> None:
    """Train with one process per prefix of a command."""
    ranks = []
    for rank, prefix in enumerate(prefixes):
        own = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": "1"}
        command = [*prefix, sys.executable, "-m", "tests.benchmarks.bench_diloco", "--rank-of", str(job.file)]
        log = (job.logs_folder / f"{rank}.log").open("wb")
        constants = {"TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(command, env={**os.environ, **environment, **own, **constants}, stdout=log, stderr=log)
        )
    for rank, process in enumerate(ranks):
        if process.wait() != 0:
            raise SystemExit((job.logs_folder / f"{rank}.log").read_text()[-3000:])


def be_rank(job_file: Path) -> None:
    """Be one rank of a training."""
    from pipelines.training import loop
    from pipelines.training.strategies import open_strategy
    from pipelines.training.supervision.heartbeat import LiveState

    job = TrainingJob.load(job_file)
    with open_strategy(job.training, None if "MASTER_ADDR" in os.environ else job.workspace / "meeting") as strategy:
        loop.train(job, strategy, LiveState())


def tokens_per_second(job: TrainingJob) -> float:
    """Return the rate from the first reading on; before it, ranks connect."""
    first, *_, last = read_metrics(job.metrics_file)
    return (last.tokens - first.tokens) / (last.at - first.at)


def evaluation_loss(job: TrainingJob) -> float:
    """Return the mean cross-entropy in nats per byte of what was held back."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job.model_folder).eval()
    split = TokenShards.open(job.tokens).split("validation")
    starts = range(0, len(split) - SEQUENCE_LENGTH - 1, SEQUENCE_LENGTH)
    rows = torch.tensor([[*map(int, split.slice(start, start + SEQUENCE_LENGTH))] for start in starts])
    with torch.no_grad():
        losses = [float(model(input_ids=batch, labels=batch).loss) * len(batch) for batch in rows.split(256)]
    return math.fsum(losses) / len(rows)


def measure_speed(folder: Path, *, rounds: int, delay_seconds: float, steps: dict[str, int]) -> None:
    """Print the rates over the link, and their ratio; strategies take turns."""
    rates: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    with slow_link(delay_seconds) as prefixes:
        environment = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": DEVICE}
        for number in range(rounds):
            for name in STRATEGIES:
                job = make_job(folder, f"{name}-{number}", name, steps=steps[name], seed=number)
                train(job, prefixes, environment)
                rates[name].append(tokens_per_second(job))
                print(f"  {name}: {rates[name][-1]:,.0f} tokens/s over the link", flush=True)
    ratios = [diloco / ddp for diloco, ddp in zip(rates["diloco"], rates["ddp"], strict=True)]
    median = statistics.median(ratios)
    print(f"diloco over ddp: {median:.1f}x tokens/s ({min(ratios):.1f}-{max(ratios):.1f}), bar {SPEED_BAR:g}x")


def measure_loss(folder: Path, *, seeds: int, steps: int) -> None:
    """Print both evaluation losses after equally many tokens, and by how much they differ."""
    differences = []
    for seed in range(1, seeds + 1):
        losses = {}
        for name in STRATEGIES:
            job = make_job(folder, f"{name}-loss-{seed}", name, steps=steps, seed=seed)
            train(job, [[]] * RANKS, {"GLOO_SOCKET_IFNAME": "lo"})
            losses[name] = evaluation_loss(job)
        differences.append(losses["diloco"] / losses["ddp"] - 1)
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        print(f"  seed {seed}: {told} nats per byte: {differences[-1]:+.2%}", flush=True)
    print(f"evaluation loss: {statistics.mean(differences):+.2%} of ddp's, bar {LOSS_BAR:+.0%}")


def main() -> None:
    """Measure both halves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each strategy over the link (default 3)")
    parser.add_argument("--delay-ms", type=float, default=100.0, help="per packet and direction (default 100)")
    parser.add_argument("--seeds", type=int, default=3, help="of the losses (default 3)")
    parser.add_argument("--steps", type=int, default=1500, help="of each training whose loss counts (default 1500)")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of:
        be_rank(arguments.rank_of)
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {arguments.delay_ms:g} ms in each direction")
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name) / "tokens")
        steps = {"ddp": 40, "diloco": 600}
        if arguments.rounds:
            delay_seconds = arguments.delay_ms / 1000
            measure_speed(Path(name), rounds=arguments.rounds, delay_seconds=delay_seconds, steps=steps)
        if arguments.seeds:
            measure_loss(Path(name), seeds=arguments.seeds, steps=arguments.steps)


if __name__ == "__main__":
    main()
