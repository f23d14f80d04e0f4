"""When the ranks look up from their work: often enough to be told to stop, seldom enough to cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.training.strategies import Strategy

SOONEST_SECONDS, LATEST_SECONDS = 0.25, 5.0
SHARE = 0.01
"""Of the time trained so far: a young training is looked at often, an old one seldom, and its record stays small."""

INDEPENDENT_STEPS = 10
"""Steps between two looks of ranks that do not wait for each other, and so cannot agree on a pace."""


class Pace:
    """How many steps the ranks take between two looks: equally many on all ranks, whatever their clocks say.

    Between looks no rank asks another anything beyond its strategy's own exchanges, and no host waits for its device.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        done: int,
        every_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with a look after the next step.

        Args:
            strategy: by which the ranks agree.
            done: steps taken before.
            every_steps: look at the multiples of this number; None: follow the clock.
            clock: tells seconds.
        """
        self._strategy = strategy
        self._fixed = every_steps or (INDEPENDENT_STEPS if strategy.replica else None)
        self._clock = clock
        self._started = self._last = clock()
        self._steps = 1
        self.next_look = self._after(done)
        """After how many steps the ranks look up next."""

    def is_due(self, done: int) -> bool:
        """Return whether the ranks look up after this many steps."""
        return done >= self.next_look

    def go_on(self, done: int) -> None:
        """Agree on the next look: after twice as many steps as the last time, or half when that took a rank long."""
        if self._fixed is None:
            now = self._clock()
            limit = min(LATEST_SECONDS, max(SOONEST_SECONDS, SHARE * (now - self._started)))
            took_long = self._strategy.any_rank(now - self._last > limit)
            self._steps = max(1, self._steps // 2) if took_long else 2 * self._steps
            self._last = now
        self.next_look = self._after(done)

    def _after(self, done: int) -> int:
        if self._fixed is None:
            return done + self._steps
        return (done // self._fixed + 1) * self._fixed
