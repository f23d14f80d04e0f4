"""Averages among workers of which some may be slow or lost: the others go on without them.

The members of an epoch are fixed, and a round among them is a single collective. When that fails, for a member died or
was silent for too long, or when somebody waits to be let in, the next epoch begins:

1. Who is ready says so at a store, which outlives each worker. Who has waited long enough for the members of the epoch
   before proposes those that are there; the first proposal counts. Whoever is not in it knocks at the epoch after.
2. Members that remember less are given what the newest remembers: the latest epoch, and in it the most rounds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""How often a waiting worker looks whether the others have gone on without it."""

_MOST_FAILURES = 10
"""Epochs in a row that may end before their first round."""

Version = tuple[int, int]
"""What a worker remembers: the epoch, and how many rounds of it."""


class Rounds:
    """One worker's part in all rounds."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_seconds: float) -> None:
        """Begin with all workers as members.

        Args:
            store: that all workers share, and nobody else writes to.
            rank: of this worker.
            world_size: workers.
            timeout_seconds: how long others are waited for: in a round, and at the beginning of an epoch.
        """
        self._store = store
        self._rank = rank
        self._timeout_seconds = timeout_seconds
        self._everyone = range(world_size)
        self._version: Version = (0, 0)
        self._epoch = 0
        self._group: dist.ProcessGroupGloo | None = None
        self.members: list[int] = [*self._everyone]
        """Workers of the last epoch that this one knows of."""
        self.has_left_out = False
        """Whether a round went on without a worker, this one or another."""

    def average(self, values: torch.Tensor, memory: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean of the members' values, the same bits for each.

        Args:
            values: on the host, of the same shape for each worker.
            memory: on the host; what a worker remembers of all rounds, the same for each that took part in all. One
                that missed a round finds the others' here afterwards, as it was before this round.

        Raises:
            RuntimeError: when every attempt failed, as when the store does not answer.
        """
        failures = 0
        while True:
            try:
                return self._round(self._group or self._enter(memory), values)
            except RuntimeError as error:  # gloo: a connection was closed, or a member silent for too long
                failures += 1
                if failures > _MOST_FAILURES:
                    raise
                reason = str(error).partition("\n")[0]
                logger.warning("diloco: epoch %d of workers %s ends: %s", self._epoch, self.members, reason)
                self._end_epoch()

    def leave(self) -> None:
        """Say that nobody needs to wait for this worker any more."""
        self._store.set(f"left/{self._rank}", "yes")
        self._end_epoch()

    def _round(self, group: dist.ProcessGroupGloo, values: torch.Tensor) -> torch.Tensor:
        is_first = self._rank == self.members[0]
        knocks = float(is_first and self._store.check([f"{self._epoch + 1}/knock"]))
        total = _sum(group, torch.cat([values, torch.tensor([knocks])]))
        epoch, count = self._version
        self._version = (epoch, count + 1) if epoch == self._epoch else (self._epoch, 1)
        self.has_left_out |= len(self.members) < len(self._everyone)
        if total[-1].item() > 0:
            self._end_epoch()
        return total[:-1] / len(self.members)

    def _end_epoch(self) -> None:
        if self._group is not None:
            self._group.abort()  # a member that still waits here learns that nobody comes
        self._group = None
        self._epoch += 1

    def _enter(self, memory: Sequence[torch.Tensor]) -> dist.ProcessGroupGloo:
        """Return the process group of the first epoch that this worker is in."""
        versions = self._join() if self._epoch else dict.fromkeys(self._everyone, self._version)
        self.members = sorted(versions)
        store = dist.PrefixStore(f"{self._epoch}/group", self._store)
        timeout = timedelta(seconds=self._timeout_seconds)
        group = dist.ProcessGroupGloo(store, self.members.index(self._rank), len(self.members), timeout)
        self._catch_up(group, versions, memory)
        self._group = group
        return group

    def _join(self) -> Mapping[int, Version]:
        """Return what the members of the first epoch that this worker is in remember, by rank."""
        while True:
            self._store.set(f"{self._epoch}/here/{self._rank}", json.dumps(self._version))
            self._store.set(f"{self._epoch}/knock", "yes")
            members = self._close()
            if self._rank in members:
                return {rank: self._version_of(rank) for rank in members}
            logger.warning("diloco: epoch %d began without worker %d", self._epoch, self._rank)
            self.members, self.has_left_out = members, True
            self._epoch += 1

    def _close(self) -> list[int]:
        """Return the members of this epoch, once that is decided."""
        awaited = [rank for rank in self.members if not self._store.check([f"left/{rank}"])]
        decision = f"{self._epoch}/members"
        self._wait([f"{self._epoch}/here/{rank}" for rank in awaited], instead=decision)
        there = [rank for rank in self._everyone if self._store.check([f"{self._epoch}/here/{rank}"])]
        members: list[int] = json.loads(self._store.compare_set(decision, "", json.dumps(there)))
        if missing := set(awaited) - set(members):
            logger.warning("diloco: epoch %d begins without workers %s", self._epoch, sorted(missing))
        return members

    def _catch_up(
        self, group: dist.ProcessGroupGloo, versions: Mapping[int, Version], memory: Sequence[torch.Tensor]
    ) -> None:
        newest = max(versions.values())
        if min(versions.values()) < newest:
            options = dist.BroadcastOptions()
            options.rootRank = next(index for index, rank in enumerate(self.members) if versions[rank] == newest)
            for tensor in memory:
                group.broadcast([tensor], options).wait()
        self._version = newest

    def _version_of(self, rank: int) -> Version:
        epoch, count = json.loads(self._store.get(f"{self._epoch}/here/{rank}"))
        return epoch, count

    def _wait(self, keys: Collection[str], *, instead: str) -> None:
        """Wait for keys in the store, until another key is there first, or time is up."""
        deadline = time.monotonic() + self._timeout_seconds
        while time.monotonic() < deadline and not self._store.check([instead]):
            with contextlib.suppress(RuntimeError):  # they are not there yet
                self._store.wait(list(keys), timedelta(seconds=min(_POLL_SECONDS, self._timeout_seconds)))
                return


def _sum(group: dist.ProcessGroupGloo, values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the members' values, the same bits for each; `values` may be overwritten.

    Two members hand each other all they have. An all-reduce sends as many bytes in two journeys, the second of which
    brings back what the first has summed: over a link whose delay counts it takes twice as long.
    """
    if group.size() != 2:
        group.allreduce([values]).wait()
        return values
    rows = [torch.empty_like(values) for _ in range(2)]
    group.allgather([rows], [values]).wait()
    return rows[0].add_(rows[1])
