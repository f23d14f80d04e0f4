"""Find the rank that hangs: it stands still for much longer than a step takes, and so do all that wait for it."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
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

    def look(self, beats: Mapping[int, Heartbeat], now: float, *, is_over: bool = False) -> Hang | None:
        """Return the rank that hangs, if one does.

        Args:
            beats: the newest heartbeat of each rank that lives.
            now: seconds on a clock that never goes back.
            is_over: whether the model is published, so that nothing is left to do that takes long.
        """
        gap = 0.0 if self._looked_at is None else min(now - self._looked_at, _GAP_SECONDS)
        self._looked_at = now
        self._ranks = {rank: self._followed(beat, gap) for rank, beat in beats.items()}
        watched = list(self._ranks.values())
        if not watched:
            return None
        idle = min(each.idle_seconds for each in watched)
        slowest = min(watched, key=lambda each: _position(each.beat))
        limit = max(self._limit(each.beat.phase, is_over=is_over) for each in watched)
        is_alone_behind = len(watched) == 1 or len({_position(each.beat) for each in watched}) > 1
        if idle < limit * (1.0 if is_alone_behind else _UNDECIDED_FACTOR):
            return None
        for each in watched:
            each.idle_seconds = 0.0  # told; whoever breaks it up needs a while
        return Hang(slowest.beat, idle, self.step_seconds)

    def _followed(self, beat: Heartbeat, gap: float) -> _Watched:
        watched = self._ranks.get(beat.rank)
        if watched is None or watched.beat.pid != beat.pid:
            return _Watched(beat)
        before, moved_after = watched.beat, watched.idle_seconds + gap
        if beat.step > before.step and before.phase is Phase.TRAINING:
            self._step_seconds.append(moved_after / (beat.step - before.step))
        return _Watched(beat, moved_after if _position(beat) == _position(before) else 0.0)

    def _limit(self, phase: Phase, *, is_over: bool) -> float:
        usual = self.step_seconds
        if not is_over and (phase is not Phase.TRAINING or usual is None):
            return self._config.start_seconds
        return max(self._config.min_seconds, self._config.factor * (usual or 0.0))


class Watchdogs:
    """One watchdog for all ranks where they wait for each other; where they do not, one for each rank.

    Of ranks that go on without one that hangs, each is judged by its own time and its own steps: that the others move
    says nothing of it, and that it is slower than they are is no fault.
    """

    def __init__(self, config: WatchdogConfig, *, wait_for_each_other: bool) -> None:
        self._wait_for_each_other = wait_for_each_other
        self._watchdogs: defaultdict[int, Watchdog] = defaultdict(lambda: Watchdog(config))

    def look(self, beats: Mapping[int, Heartbeat], now: float, *, is_over: bool = False) -> list[Hang]:
        """Return the ranks that hang; arguments as for `Watchdog.look`."""
        groups = {0: beats} if self._wait_for_each_other else {rank: {rank: beat} for rank, beat in beats.items()}
        found = [self._watchdogs[first].look(group, now, is_over=is_over) for first, group in groups.items()]
        return [hang for hang in found if hang]


def _position(beat: Heartbeat) -> tuple[int, Phase, int]:
    """Return how far a rank is, of which the exchanges decide who waits for whom."""
    return beat.exchanges, beat.phase, beat.step
