"""`diloco` against `ddp` over a link with a delay: tokens per second, and what was learnt from equally many tokens.

    python -m tests.benchmarks.bench_diloco

Two questions, each measured where it can be. Speed: two ranks, each in a network namespace of its own, joined by a
userspace link that holds each packet for 100 ms in each direction (`slow_link`; needs root); they also meet over it.
Bar: >= 10x the tokens/s of ddp. Loss: the same two ranks without the link, on which what is learnt does not depend.
Bar: an evaluation loss at most 1 % above ddp's after equally many tokens, mean over three seeds.

The model reads bytes of the standard library's documentation, from scratch; it is small, for with two cores a link of
100 ms is slow only beside a short step. Both have one learning rate and schedule. A step of ddp is twice as large as
one of diloco, which takes twice as many: over the link half the batch would halve ddp's tokens/s, while workers on
their own learn more by small steps. So does ddp itself without a link: `--compare ddp,8,4.5e-3` tells how much more,
and measures any other choice beside these. `--rounds 0` leaves out the speed, `--seeds 0` the loss.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.data import python_docs
from pipelines.formats.shards import EncodedDocument, TokenShards, write_shards
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import read_metrics
from tests.benchmarks.figures import Figure, circumstances
from tests.benchmarks.slow_link import ADDRESSES, DEVICE, slow_link

SPEED_BAR, LOSS_BAR = 10.0, 0.01
END, VOCABULARY_SIZE = 256, 257
RANKS = 2
SEQUENCE_LENGTH = 64
ARCHITECTURE = ArchitectureConfig(
    hidden_size=64, intermediate_size=192, num_layers=2, num_heads=2, num_key_value_heads=2, context_length=64
)
DDP: Mapping[str, Any] = {"batch_size": 16, "strategy": {"kind": "ddp"}}
DILOCO: Mapping[str, Any] = {
    "batch_size": 8,
    "strategy": {
        "kind": "diloco", "inner_steps": 20, "overlap_steps": 0, "outer_learning_rate": 1.0, "outer_momentum": 0.0
    },
}  # fmt: skip
"""Half of ddp's batch, so twice its steps; an exchange is waited for."""

LEARNING_RATE = 6e-3
WARMUP_SHARE = 0.2
"""Of the steps."""

TOKENS = 768_000
"""Of each training whose loss counts."""

STRATEGY_FIELDS = ("inner_steps", "overlap_steps", "outer_learning_rate", "outer_momentum")

TIMED_STEPS = {"ddp": 39, "diloco": 179}
"""Of each training over the link: from its only look up to its last step. Before it, ranks connect; at each further one
ddp's ranks would have to agree over the link once more."""

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's quantile for the mean of so many seeds."""


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


def make_job(
    folder: Path, name: str, training: Mapping[str, Any], *, steps: int, read_every_steps: int | None = None
) -> TrainingJob:
    """Lay out one training."""
    common = {
        "ranks": RANKS, "max_steps": steps, "sequence_length": SEQUENCE_LENGTH, "learning_rate": LEARNING_RATE,
        "precision": "fp32", "warmup_steps": round(WARMUP_SHARE * steps), "checkpoint_every_steps": steps,
    }  # fmt: skip
    job = TrainingJob(
        architecture=ARCHITECTURE,
        training=TrainingConfig.model_validate({**common, **training}),
        tokens=folder / "tokens",
        tokenizer=folder / "tokens",
        workspace=folder / name,
        store_url=f"file://{folder / 'store'}",
        checkpoints=f"checkpoints/{name}",
        read_every_steps=read_every_steps,
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
    """Return the rate from the first reading to the last."""
    first, last = read_metrics(job.metrics_file)
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


def measure_speed(folder: Path, *, rounds: int, delay_seconds: float) -> bool:
    """Print the rates over the link, and their ratio; strategies take turns. Return whether the bar is missed."""
    rates: dict[str, list[float]] = {name: [] for name in TIMED_STEPS}
    sides = [("ddp", DDP), ("diloco", DILOCO)]
    with slow_link(delay_seconds) as prefixes:
        for number in range(rounds):
            for name, training in sides[:: -1 if number % 2 else 1]:
                rates[name].append(rate_over_link(folder, f"{name}-{number}", training, prefixes))
                print(f"  {name}: {rates[name][-1]:,.0f} tokens/s over the link", flush=True)
    ratio = Figure.median([diloco / ddp for diloco, ddp in zip(rates["diloco"], rates["ddp"], strict=True)])
    verdict = ratio.verdict(SPEED_BAR, at_least=True)
    print(f"tokens/s of diloco over ddp's: {ratio.told('x', 1)}; bar {SPEED_BAR:g}x: {verdict}", flush=True)
    return verdict == "missed"


def rate_over_link(folder: Path, name: str, training: Mapping[str, Any], prefixes: Sequence[Sequence[str]]) -> float:
    """Train a little over the link; return tokens per second."""
    steps = TIMED_STEPS[training["strategy"]["kind"]]
    job = make_job(folder, name, training, steps=2 * steps + 1, read_every_steps=steps + 1)
    train(job, prefixes, {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": DEVICE})
    return tokens_per_second(job)


def measure_loss(folder: Path, sides: Mapping[str, Mapping[str, Any]], *, seeds: int, tokens: int) -> bool:
    """Print the evaluation losses after equally many tokens; return whether the first side misses the bar."""
    above: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(1, seeds + 1):
        ddp = loss_of(folder, "ddp", {**DDP, "seed": seed}, tokens=tokens)
        print(f"  seed {seed}: ddp {ddp:.4f} nats per byte", flush=True)
        for name, training in sides.items():
            loss = loss_of(folder, name, {**training, "seed": seed}, tokens=tokens)
            above[name].append(loss / ddp - 1)
            print(f"  seed {seed}: {name} {loss:.4f}: {above[name][-1]:+.2%}", flush=True)
    verdicts = [tell_loss(name, differences) for name, differences in above.items()]
    return verdicts[0] == "missed"


def loss_of(folder: Path, name: str, training: Mapping[str, Any], *, tokens: int) -> float:
    """Train without the link; return what the model then scores."""
    steps = tokens // (training["batch_size"] * SEQUENCE_LENGTH)
    job = make_job(folder, f"{name}-loss-{training['seed']}", training, steps=steps)
    train(job, [[]] * RANKS, {"GLOO_SOCKET_IFNAME": "lo"})
    return evaluation_loss(job)


def tell_loss(name: str, differences: Sequence[float]) -> str:
    """Print by how much a loss is above ddp's, mean over the seeds; return the verdict."""
    count, mean = len(differences), statistics.mean(differences)
    half = T_975.get(count, 2.0) * statistics.stdev(differences) / math.sqrt(count) if count > 1 else math.inf
    figure = Figure(100 * mean, 100 * (mean - half), 100 * (mean + half), count)
    verdict = figure.verdict(100 * LOSS_BAR)
    print(f"evaluation loss of {name} above ddp's: {figure.told(' %', 2)}; bar {LOSS_BAR:.0%}: {verdict}", flush=True)
    return verdict


def sides_of(compared: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return diloco as the bar has it, then what else is compared with ddp."""
    found: dict[str, Mapping[str, Any]] = {"diloco": DILOCO}
    for each in compared:
        name, *numbers = each.split(",")
        strategy = {"kind": name, **dict(zip(STRATEGY_FIELDS, map(json.loads, numbers[2:]), strict=False))}
        found[each] = {"batch_size": int(numbers[0]), "learning_rate": float(numbers[1]), "strategy": strategy}
    return found


def parsed_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each strategy over the link (default 3)")
    parser.add_argument("--delay-ms", type=float, default=100.0, help="per packet and direction (default 100)")
    parser.add_argument("--seeds", type=int, default=3, help="of the losses (default 3)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"learnt before a loss counts (default {TOKENS:,})")
    parser.add_argument(
        "--compare",
        nargs="*",
        default=[],
        metavar="STRATEGY,BATCH,RATE",
        help=f"losses of others, as ddp,8,3e-3 or diloco,8,3e-3,... with {', '.join(STRATEGY_FIELDS)}",
    )
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure both; return 1 when a bar is missed."""
    arguments = parsed_arguments()
    if arguments.rank_of:
        be_rank(arguments.rank_of)
        return 0
    print(f"{circumstances()}; {arguments.delay_ms:g} ms in each direction", flush=True)
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "tokens")
        if arguments.seeds:
            sides = sides_of(arguments.compare)
            missed.append(measure_loss(folder, sides, seeds=arguments.seeds, tokens=arguments.tokens))
        if arguments.rounds:
            missed.append(measure_speed(folder, rounds=arguments.rounds, delay_seconds=arguments.delay_ms / 1000))
    print(circumstances())
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
