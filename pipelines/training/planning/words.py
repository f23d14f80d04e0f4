"""A plan, and what it came to, in words and numbers for people."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.spec import TrainingConfig
from pipelines.training.planning.facts import Calibration, Comparison, Ledger, Plan, Range
from pipelines.training.supervision.out_of_memory import gib


def plan_text(plan: Plan, training: TrainingConfig) -> str:
    """Return a plan as lines for a terminal."""
    sizes, total = plan.sizes, plan.total_tokens
    trained = (
        "" if sizes.num_trained_parameters == sizes.num_parameters else f", {sizes.num_trained_parameters:,} learn"
    )
    lines = {
        "Parameters": f"{sizes.num_parameters:,}{trained}",
        "Data": f"{total:,} tokens in {training.max_steps:,} steps",
        "Arithmetic": f"{sizes.flops_per_token:.3g} FLOPs a token, {sizes.flops_per_token * total:.3g} in all",
        **({"GPU memory": _needs(plan.device)} if plan.device else {}),
        "Host memory": _needs(plan.host),
        "Checkpoint": f"{size(plan.checkpoint_bytes)}, {training.keep_checkpoints} kept",
    }
    if plan.calibration:
        lines |= _measured(plan.calibration, plan, training)
    if plan.seconds:
        lines["Time"] = f"{_range(plan.seconds, duration)}"
    if plan.cost:
        lines["Cost"] = f"{_range(plan.cost, '{:.2f}'.format)} at {training.price_per_hour:g} an hour"
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items())


def comparison_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return what was planned and what it came to: a name, the plan, the outcome."""
    rows = [
        ("time", _range(comparison.planned_seconds, duration), duration(comparison.seconds)),
        ("memory of a rank", f"at most {size(comparison.planned_memory_bytes)}", size(comparison.memory_bytes)),
    ]
    if comparison.planned_cost is not None and comparison.cost is not None:
        rows.append(("cost", _range(comparison.planned_cost, "{:.2f}".format), f"{comparison.cost:.2f}"))
    return rows


def size(size_bytes: int) -> str:
    """Return a size as people say it."""
    return gib(size_bytes) if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def _measured(calibration: Calibration, plan: Plan, training: TrainingConfig) -> dict[str, str]:
    step = calibration.step_seconds
    tokens = training.batch_size * training.sequence_length / step.value
    mfu = tokens * plan.sizes.flops_per_token / calibration.matmul_rate
    return {
        "Calibration": f"{calibration.num_steps} steps of {_range(step, _milliseconds)}; {tokens:,.0f} tokens/s, "
        f"MFU {mfu:.0%} of {calibration.matmul_rate:.3g} FLOP/s; a checkpoint costs {calibration.save_seconds:.2f} s, "
        f"start and end {calibration.fixed_seconds:.1f} s; a rank took {size(calibration.peak_memory_bytes)}",
    }


def _range(found: Range, write: Callable[[float], str]) -> str:
    return f"{write(found.value)} ({write(found.low)} to {write(found.high)})"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _needs(ledger: Ledger) -> str:
    parts = {name: size_bytes for name, size_bytes in ledger.needed.model_dump().items() if size_bytes}
    told = ", ".join(f"{name} {size(size_bytes)}" for name, size_bytes in parts.items())
    verdict = "fits" if ledger.fits else "TOO SMALL"
    return (
        f"{size(ledger.needed.total)} a rank at most: {told}; "
        f"{ledger.name} has {size(ledger.available_bytes)} a rank: {verdict}"
    )
