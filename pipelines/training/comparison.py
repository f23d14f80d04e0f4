"""Compare a training with one that was done again: equal bits, or how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open

from pipelines.spec import Frozen
from pipelines.training.metrics import Reading

if TYPE_CHECKING:
    import numpy.typing as npt


class WeightsDifference(Frozen):
    """How far apart two sets of weights are."""

    num_tensors: int
    num_different_tensors: int
    largest: float
    """Largest absolute difference of a weight."""

    largest_name: str
    """Where it is; empty when all bits are equal."""

    relative: float
    """Norm of the difference over the norm of the first."""

    @property
    def is_equal(self) -> bool:
        """Whether every bit of every weight is equal."""
        return self.num_different_tensors == 0


class LossDifference(Frozen):
    """How far apart two courses of the loss are."""

    first_different_step: int | None
    """None when all readings of the same steps are equal."""

    largest: float
    final: float
    """Of the last such reading: the second's loss minus the first's."""


class Difference(Frozen):
    """What a training that was done again says of the first."""

    weights: WeightsDifference
    losses: LossDifference
    circumstances: tuple[str, ...]
    """What else is not as it was, one line each."""


def compare_weights(first: Path, second: Path) -> WeightsDifference:
    """Compare the safetensors files of two model folders, tensor by tensor."""
    before, after = _names(first), _names(second)
    missing = before.keys() ^ after.keys()
    different, largest, largest_name = len(missing), 0.0, min(missing, default="")
    squares, difference_squares = 0.0, 0.0
    for name in sorted(before.keys() & after.keys()):
        one, other = _tensor(before[name], name), _tensor(after[name], name)
        squares += float(np.square(one, dtype=np.float64).sum())
        if one.shape == other.shape and one.tobytes() == other.tobytes():
            continue
        different += 1
        delta = np.abs(one.astype(np.float64) - other) if one.shape == other.shape else np.array([np.inf])
        difference_squares += float(np.square(delta).sum())
        if float(delta.max()) >= largest:
            largest, largest_name = float(delta.max()), name
    return WeightsDifference(
        num_tensors=len(before.keys() | after.keys()),
        num_different_tensors=different,
        largest=largest,
        largest_name=largest_name,
        relative=float(np.sqrt(difference_squares / squares)) if squares else 0.0,
    )


def compare_losses(first: Sequence[Reading], second: Sequence[Reading]) -> LossDifference:
    """Compare the readings of the same steps; the clock decides when a training is read, so others have no pair."""
    before, again = _losses(first), _losses(second)
    pairs = [(steps[1], again[steps] - loss) for steps, loss in before.items() if steps in again]
    return LossDifference(
        first_different_step=next((step for step, difference in pairs if difference != 0.0), None),
        largest=max((abs(difference) for _, difference in pairs), default=0.0),
        final=pairs[-1][1] if pairs else 0.0,
    )


def outcome_text(difference: Difference) -> str:
    """Return the outcome of a replay for people."""
    return "\n".join(_outcome_lines(difference))


def _outcome_lines(difference: Difference) -> Iterator[str]:
    weights, losses = difference.weights, difference.losses
    if weights.is_equal:
        yield f"equal bits: {weights.num_tensors} tensors"
    else:
        yield (
            f"different bits: {weights.num_different_tensors} of {weights.num_tensors} tensors; "
            f"by at most {weights.largest:.3g} ({weights.largest_name}), {weights.relative:.3g} of the weights' norm"
        )
        since = losses.first_different_step
        when = "equal at every reading" if since is None else f"different from step {since} on"
        yield f"loss: {when}, by at most {losses.largest:.3g}, at the end by {losses.final:+.3g} nats per token"
    for line in difference.circumstances:
        yield f"not as it was: {line}"
    if not difference.circumstances:
        yield "versions, hardware, flags, code and inputs are as they were"


def _losses(readings: Sequence[Reading]) -> Mapping[tuple[int, int], float]:
    """Return the mean loss of each stretch of steps that was read: after which step, up to which."""
    starts = [0, *(reading.step for reading in readings)]
    return {(start, reading.step): reading.loss for start, reading in zip(starts, readings, strict=False)}


def _names(folder: Path) -> Mapping[str, Path]:
    """Return the file of each tensor."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            found.update(dict.fromkeys(tensors.keys(), file))
    return found


def _tensor(file: Path, name: str) -> npt.NDArray[np.floating]:
    with safe_open(file, framework="numpy") as tensors:
        return np.asarray(tensors.get_tensor(name))
