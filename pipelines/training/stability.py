"""Keep bad numbers out of the weights, and follow `training.stability` where there are some.

A step whose gradient is not finite never changes the weights, whatever the policy: it is refused on the device, and the
host, which reads losses only now and then, decides later what that means for the training.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, JsonValue

from pipelines.errors import TrainingDiverged
from pipelines.spec import Frozen, StabilityConfig
from pipelines.training.strategies import Strategy
from pipelines.training.supervision.events import Event, EventKind

Policy = Literal["ignore", "stop", "skip", "rewind"]


@dataclass(frozen=True)
class Rewound:
    """What a training that went back knows better than its checkpoint."""

    data_step: int = 0
    """Batches before this one are not learnt again."""

    num_incidents: int = 0


class Rewind(Exception):
    """Go back to the newest checkpoint, and leave out the data from there to the incident."""

    def __init__(self, rewound: Rewound) -> None:
        super().__init__(f"the data before batch {rewound.data_step} is left out")
        self.rewound = rewound


class StabilityState(Frozen):
    """What a checkpoint keeps of this module."""

    left_out_steps: int = 0
    """Batches that were left out so far."""

    num_incidents: int = 0
    recent_losses: tuple[float, ...] = Field(default=(), max_length=100_000)


class Stability:
    """The guard of one training: refuses updates on the device, and judges losses on the host."""

    def __init__(
        self,
        config: StabilityConfig,
        strategy: Strategy,
        *,
        tell: Callable[[Event], None],
        rewound: Rewound | None = None,
        overflow_is_usual: bool = False,
    ) -> None:
        """Take the policies, and what is known from before.

        Args:
            config: the policies.
            strategy: how the ranks share the work.
            tell: gets each incident, on rank 0; of ranks that hold models of their own, from each.
            rewound: what the training that went back left; None when none did.
            overflow_is_usual: whether a gradient scaler tries its scale, so that infinite gradients are no incident.
        """
        self._config = config
        self._strategy = strategy
        self._tell = tell
        self._rewound = rewound or Rewound()
        self._overflow_is_usual = overflow_is_usual
        self._recent: deque[float] = deque(maxlen=config.window_steps)
        self._window = SpikeWindow(config, strategy.device) if config.spike == "skip" and strategy.judges else None
        self._refused: list[torch.Tensor] = []
        self._flags = torch.tensor([0.0, 1.0], device=strategy.device).unbind()
        self.num_incidents = self._rewound.num_incidents
        self.left_out_steps = 0
        """By how many batches the data is ahead of the step."""

    def restore(self, done: int, progress: Mapping[str, JsonValue]) -> None:
        """Go on from what a checkpoint after `done` steps kept; from nothing at the first step."""
        state = StabilityState.model_validate(progress.get("stability", {}))
        self.left_out_steps = max(state.left_out_steps, self._rewound.data_step - done)
        self.num_incidents = max(state.num_incidents, self._rewound.num_incidents)
        self._recent.extend(state.recent_losses)
        if self._window:
            self._window.fill(state.recent_losses)

    def progress(self) -> dict[str, JsonValue]:
        """Return what a checkpoint is to keep."""
        state = StabilityState(
            left_out_steps=self.left_out_steps,
            num_incidents=self.num_incidents,
            recent_losses=tuple(self._recent),
        )
        return {"stability": state.model_dump(mode="json")}

    def allows(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, norm: torch.Tensor) -> bool:
        """Return whether to call the optimizer's step; always where weights are on a GPU, for there it does nothing.

        Args:
            optimizer: whose step comes next.
            loss: of this rank's share of the batch, a scalar on the device.
            norm: of the whole gradient, equal on all ranks that hold one model together.
        """
        if norm.is_cpu and self._window is None:  # a tenth of the time that tensors take
            is_refused = not math.isfinite(norm.item())
            self._refused.append(self._flags[is_refused])
            return not is_refused
        refused = ~torch.isfinite(norm)
        if self._window:
            refused = self._window.refuses(self._shared(loss), refused)
        flag = refused.to(torch.float32)
        self._refused.append(flag)
        if optimizer.param_groups[0]["params"][0].is_cpu:
            return not flag.item()
        optimizer.found_inf = flag  # as torch.amp.GradScaler tells a fused optimizer
        return True

    def take_refused(self) -> list[torch.Tensor]:
        """Return, for each step since the last call, 1.0 where it was refused."""
        refused, self._refused = self._refused, []
        return refused

    def examine(
        self, first_step: int, losses: Sequence[float], norms: Sequence[float], refused: Sequence[float]
    ) -> list[bool]:
        """Judge steps whose numbers the host has read; return which were sound.

        Where another rank judges, this one follows no policy.

        Raises:
            TrainingDiverged: when the policy is to stop, or incidents are too many.
            Rewind: when the policy is to go back.
        """
        return [
            self._is_sound(step, loss, norm, is_refused=flag > 0)
            for step, (loss, norm, flag) in enumerate(zip(losses, norms, refused, strict=True), start=first_step)
        ]

    def _is_sound(self, step: int, loss: float, norm: float, *, is_refused: bool) -> bool:
        if not self._strategy.judges:
            return math.isfinite(loss) and math.isfinite(norm)
        if not math.isfinite(loss) or (not math.isfinite(norm) and not self._overflow_is_usual):
            name, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", norm)
            self._follow(self._config.non_finite, step, f"{name} is {value} at step {step}")
            return False
        if not math.isfinite(norm):
            return False
        if self._config.spike != "ignore" and (is_refused or self._is_spike(loss)):
            median = statistics.median(self._recent) if self._recent else math.nan
            self._follow(self._config.spike, step, f"loss {loss:.4g} at step {step} is a spike over {median:.4g}")
            return False
        self._recent.append(loss)
        return True

    def _is_spike(self, loss: float) -> bool:
        if self._config.spike == "skip" or len(self._recent) < self._config.window_steps:
            return False  # a skip was decided on the device
        return loss > self._config.spike_factor * statistics.median(self._recent)

    def _follow(self, policy: Policy, step: int, what: str) -> None:
        self.num_incidents += 1
        if self._strategy.replica:
            what = f"rank {self._strategy.rank}: {what}"
        if policy == "stop":
            raise TrainingDiverged(f"training: {what}; {self._advice}")
        if self.num_incidents > self._config.max_incidents:
            raise TrainingDiverged(
                f"training: {what}, and training.stability.max_incidents is {self._config.max_incidents}; "
                f"{self._advice}"
            )
        done = "its batch was skipped" if policy == "skip" else "going back, and leaving out the data up to it"
        number = f"incident {self.num_incidents} of at most {self._config.max_incidents}"
        if self._strategy.rank == 0 or self._strategy.replica:
            self._tell(Event(kind=EventKind.INCIDENT, step=step, text=f"{what}; {done} ({number})"))
        if policy == "rewind":
            raise Rewind(Rewound(data_step=step + self.left_out_steps, num_incidents=self.num_incidents))

    @property
    def _advice(self) -> str:
        policies = "skip" if self._strategy.replica else "skip or rewind"
        return (
            "lower training.learning_rate or training.clip_norm, lengthen training.warmup_steps, or let "
            f"training.stability {policies}; nothing was published"
        )

    def _shared(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss of all who hold one model together: they must decide alike."""
        return loss if self._strategy.replica else self._strategy.mean(loss)


class SpikeWindow:
    """The losses of the last accepted steps, on the device."""

    def __init__(self, config: StabilityConfig, device: torch.device) -> None:
        self._factor = config.spike_factor
        self._losses = torch.full((config.window_steps,), math.nan, device=device)
        self._next = 0

    def fill(self, losses: Sequence[float]) -> None:
        """Start with losses from before, oldest first."""
        kept = torch.tensor(losses[-len(self._losses) :], device=self._losses.device)
        self._losses[: len(kept)] = kept
        self._next = len(kept) % len(self._losses)

    def refuses(self, loss: torch.Tensor, refused: torch.Tensor) -> torch.Tensor:
        """Return whether a step is refused, already or as a spike; remember its loss when not.

        The median of a window that is not full yet is not a number, over which nothing is a spike.
        """
        refused = refused | (loss > self._factor * self._losses.median())
        place = self._next
        self._losses[place] = torch.where(refused, self._losses[place], loss)
        self._next = (place + 1) % len(self._losses)
        return refused
