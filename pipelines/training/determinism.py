"""What the bits of a training depend on, kept beside them: so that it can be done again, and a difference explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.spec import Frozen
from pipelines.training.job import TrainingJob


class RankRecord(Frozen):
    """What one rank computed with, and how much."""

    versions: dict[str, str]
    hardware: dict[str, str]
    flags: dict[str, str]
    num_parameters: int
    num_trained_parameters: int
    flops_per_token: int
    """Of forward and backward pass, by the usual convention (`flops.flops_per_token`)."""

    matmul_rate: float
    """Operations per second of a large matrix product on this rank's device, measured after the training."""

    peak_memory_bytes: int
    """Most memory that the training took: of the GPU, or of the process where there is none."""


class Determinism(Frozen):
    """Everything that decides the bits of a training, and the bits' own digests."""

    seed: int
    versions: dict[str, str]
    hardware: tuple[dict[str, str], ...]
    """By rank, of the machine that published the model."""

    flags: dict[str, str]
    code: str
    """sha256 over the sources of the step."""

    inputs: dict[str, str]
    """Digests of what was read."""

    outputs: dict[str, str]
    """Digests of what was made."""

    resumed_from_step: int
    """Steps that earlier tries had done."""

    @classmethod
    def of(
        cls,
        records: tuple[RankRecord, ...],
        *,
        seed: int,
        code: str,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        resumed_from_step: int,
    ) -> Determinism:
        """Put together what the ranks and the step know."""
        first = records[0]
        return cls(
            seed=seed,
            versions=first.versions,
            hardware=tuple(record.hardware for record in records),
            flags=first.flags,
            code=code,
            inputs=dict(inputs),
            outputs=dict(outputs),
            resumed_from_step=resumed_from_step,
        )


def read_records(job: TrainingJob) -> tuple[RankRecord, ...]:
    """Return what the ranks of this machine left, in their order."""
    files = sorted(job.records_folder.glob("rank-*.json"))
    return tuple(RankRecord.model_validate_json(file.read_bytes()) for file in files)


def differences(first: Determinism, second: Determinism) -> list[str]:
    """Return one line for each thing that differs between two trainings' circumstances."""
    lines = [
        *_different("version", first.versions, second.versions),
        *_different("flag", first.flags, second.flags),
        *_different("input", first.inputs, second.inputs),
    ]
    if len(first.hardware) != len(second.hardware):
        lines.append(f"ranks: {len(first.hardware)}, then {len(second.hardware)}")
    for rank, (before, now) in enumerate(zip(first.hardware, second.hardware, strict=False)):
        lines.extend(_different(f"rank {rank}", before, now))
    if first.code != second.code:
        lines.append(f"code: {first.code[:12]}, then {second.code[:12]}")
    return lines


def _different(what: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        before, now = first.get(name, "none"), second.get(name, "none")
        if before != now:
            yield f"{what} {name}: {before}, then {now}"
