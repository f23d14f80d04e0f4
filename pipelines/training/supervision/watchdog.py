"""Find the rank that hangs: all ranks stand still for much longer than a step takes, and the others wait for it."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.spec import WatchdogConfig
from pipelines.training.supervision.heartbeat import Heartbeat, Phase

MEASURED_STEPS = 3
"""Looks at moving ranks before the median step counts."""

_KEPT_LOOKS = 64
_GAP_SECONDS = 5.0
"""Longest time between two looks that counts: whoever was kept from looking knows nothing of the ranks."""

_UNDECIDED_FACTOR = 2.0
"""How much longer ranks may stand still of which none is behind: the one that hangs may be on another machine."""


@dataclass(frozen=True)
class Hang:
    """A rank that stands still."""

    beat: Heartbeat
    """Its newest."""

    seconds: float
    """How long it has stood still."""

    step_seconds: float | None
    """Median step of this training; None before there was one."""

    def __str__(self) -> str:
        usual = "" if self.step_seconds is None else f", where a step takes {self.step_seconds:.3g} s"
        return (
            f"rank {self.beat.rank} hangs: nothing moved for {self.seconds:.0f} s while {self.beat.phase} "
            f"after step {self.beat.step}{usual} (training.watchdog)"
        )


@dataclass
class _Watched:
    beat: Heartbeat
    idle_seconds: float = 0.0


class Watchdog:
    """Looks at heartbeats now and then; the time is given, so that a decision depends on nothing else."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._ranks: dict[int, _Watched] = {}
        self._step_seconds: deque[float] = deque(maxlen=_KEPT_LOOKS)
        self._looked_at: float | None = None

    @property
    def step_seconds(self) -> float | None:
        """Median seconds per step, or None before enough steps were seen."""
        return statistics.median(self._step_seconds) if len(self._step_seconds) >= MEASURED_STEPS else None

    def look(self, beats: Mapping[int, Heartbeat], now: float) -> Hang | None:
        """Return the rank that hangs, if one does.

        Args:
            beats: the newest heartbeat of each rank.
            now: seconds on a clock that never goes back.
        """
        gap = 0.0 if self._looked_at is None else min(now - self._looked_at, _GAP_SECONDS)
        self._looked_at = now
        for beat in beats.values():
            self._follow(beat, gap)
        watched = list(self._ranks.values())
        if not watched:
            return None
        idle = min(each.idle_seconds for each in watched)
        slowest = min(watched, key=lambda each: _position(each.beat))
        limit = max(self._limit(each.beat.phase) for each in watched)
        is_alone_behind = len(watched) == 1 or len({_position(each.beat) for each in watched}) > 1
        if idle < limit * (1.0 if is_alone_behind else _UNDECIDED_FACTOR):
            return None
        for each in watched:
            each.idle_seconds = 0.0  # told; whoever breaks it up needs a while
        return Hang(slowest.beat, idle, self.step_seconds)

    def _follow(self, beat: Heartbeat, gap: float) -> None:
        watched = self._ranks.get(beat.rank)
        if watched is None or watched.beat.pid != beat.pid:
            self._ranks[beat.rank] = _Watched(beat)
            return
        before, moved_after = watched.beat, watched.idle_seconds + gap
        watched.idle_seconds = moved_after if _position(beat) == _position(before) else 0.0
        if beat.step > before.step and before.phase is Phase.TRAINING:
            self._step_seconds.append(moved_after / (beat.step - before.step))
        watched.beat = beat

    def _limit(self, phase: Phase) -> float:
        usual = self.step_seconds
        if phase is not Phase.TRAINING or usual is None:
            return self._config.start_seconds
        return max(self._config.min_seconds, self._config.factor * usual)


def _position(beat: Heartbeat) -> tuple[int, Phase, int]:
    """Return how far a rank is, of which the exchanges decide who waits for whom."""
    return beat.exchanges, beat.phase, beat.step
