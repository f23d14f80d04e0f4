"""From a few measured steps to the time and the cost of all of them: pure arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pipelines.errors import BadInput, RanksFailed
from pipelines.spec import DilocoConfig, StabilityConfig, TrainingConfig
from pipelines.training.metrics import Reading
from pipelines.training.planning.facts import Calibration, Plan, Range
from pipelines.training.supervision.out_of_memory import advice, gib, host_advice

WARM_UP_STEPS, MEASURED_STEPS, BLOCK_STEPS = 4, 20, 2
SAVE_EVERY_STEPS = 8


def shortened(training: TrainingConfig) -> TrainingConfig:
    """Return a training of a few steps that change nearly nothing; where ranks rarely exchange, of a whole round."""
    rounds = training.strategy.inner_steps if isinstance(training.strategy, DilocoConfig) else 0
    return training.model_copy(
        update={
            "max_steps": WARM_UP_STEPS + max(MEASURED_STEPS, rounds),
            "learning_rate": 1e-6,
            "warmup_steps": 1,
            "checkpoint_every_steps": SAVE_EVERY_STEPS,
            "keep_checkpoints": 1,
            "max_restarts": 0,
            "resume_from": "",
            "stability": StabilityConfig(),
        }
    )


def summarise(
    readings: Sequence[Reading], *, seconds: float, peak_memory_bytes: int, matmul_rate: float
) -> Calibration:
    """Return what blocks of steps took, those in which a checkpoint begins apart from the others.

    Args:
        readings: one at the end of each block.
        seconds: from the start of the processes to their end.
        peak_memory_bytes: of the rank that needed most.
        matmul_rate: of all ranks together, in operations per second.

    Raises:
        RanksFailed: when there are too few readings to tell anything.
    """
    plain, saving = list[float](), list[float]()
    for before, after in itertools.pairwise(readings):
        if before.step >= WARM_UP_STEPS:
            begins_save = before.step % SAVE_EVERY_STEPS == 0
            (saving if begins_save else plain).append((after.seconds - before.seconds) / (after.step - before.step))
    if len(plain) < 2:
        raise RanksFailed("plan: the calibration ended early; see the log above")
    mean = sum(plain) / len(plain)
    slower = sum(saving) / len(saving) - mean if saving else 0.0
    return Calibration(
        num_steps=readings[-1].step - WARM_UP_STEPS,
        step_seconds=Range(value=mean, low=min(plain), high=max(plain)),
        save_seconds=max(0.0, slower * BLOCK_STEPS),
        fixed_seconds=max(0.0, seconds - mean * readings[-1].step),
        peak_memory_bytes=peak_memory_bytes,
        matmul_rate=matmul_rate,
    )


def timed(plan: Plan, calibration: Calibration, training: TrainingConfig) -> Plan:
    """Return a plan with the time and the cost that follow from a calibration."""
    num_saves = training.max_steps // training.checkpoint_every_steps
    once = calibration.fixed_seconds + num_saves * calibration.save_seconds
    seconds = calibration.step_seconds.times(training.max_steps, plus=once)
    price = training.price_per_hour
    cost = None if price is None else seconds.times(price / 3600)
    return plan.model_copy(update={"calibration": calibration, "seconds": seconds, "cost": cost})


def check_fits(plan: Plan, training: TrainingConfig) -> None:
    """Refuse a training whose ranks need more memory than there is, on their GPUs or on the host.

    Raises:
        BadInput: with both numbers and a way out, for each memory that is too small.
    """
    problems = [
        f"a rank needs {gib(ledger.needed.total)}, {ledger.name} has {gib(ledger.available_bytes)} for it; "
        f"{advice(training) if ledger is plan.ledgers[0] else host_advice(training)}"
        for ledger in plan.ledgers
        if not ledger.fits
    ]
    if problems:
        raise BadInput(f"training: {'. And '.join(problems)}")
