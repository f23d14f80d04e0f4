"""Averages among workers of which some may be slow or lost: the others go on without them.

The members of an epoch are fixed, and a round among them is a single collective. When that fails, for a member died or
was silent for too long, or when somebody waits to be let in, the next epoch begins:

1. Who is ready says so at a store, which outlives each worker. Who has waited long enough for the members of the epoch
   before proposes those that are there; the first proposal counts. Whoever is not in it knocks at the epoch after.
2. Members that remember less are given what the newest remembers: the latest epoch, and in it the most rounds.

A collective may end well for some members and fail for others. These tried the very round that the newest has done, and
are given its result: nobody falls a round behind. For the same reason nobody leaves before all have the last result.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""How often a waiting worker looks whether the others have gone on without it."""

_MOST_FAILURES = 10
"""Epochs in a row that may end before their first round."""

_LEFT_OUT = "left-out"

_EXTRA = 2
_MEMBERS, _KNOCKS = -2, -1
"""What is summed beside the values, by its place from the end."""

Version = tuple[int, int]
"""What a worker remembers: the epoch, and how many rounds of it."""


@dataclass(frozen=True)
class Standing:
    """What a worker says of itself when an epoch begins."""

    version: Version
    tried: Sequence[Version]
    """What it would remember, had one of its attempts at the present round not failed for it."""

    def is_given_result(self, newest: Version) -> bool:
        """Whether the newest has done the round that this worker tried."""
        return newest in self.tried

    def is_given_memory(self, newest: Version) -> bool:
        """Whether this worker missed more than the result of a round."""
        return self.version < newest and not self.is_given_result(newest)


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
        self._tried: list[Version] = []
        self._total = torch.empty(0)
        """Sums of the last round: of the values, of the members, of those who hear a knock."""
        self._epoch = 0
        self._groups: list[dist.ProcessGroupGloo] = []
        """The epoch's, if this worker is in it; nothing else refers to it, for its connections end with the object."""
        self.members: list[int] = [*self._everyone]
        """Workers of the last epoch that this one knows of."""
        self._has_left_out = False

    def average(self, values: torch.Tensor, memory: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean of the members' values, the same bits for each.

        Args:
            values: on the host, of the same shape for each worker.
            memory: on the host; what a worker remembers of all rounds, the same for each that took part in all. One
                that missed a round finds the others' here afterwards, as it was before this round.

        Raises:
            RuntimeError: when every attempt failed, as when the store does not answer.
        """
        if not len(self._total):
            self._total = values.new_zeros(len(values) + _EXTRA)
        self._tried = []
        failures = 0
        while True:
            try:
                if self._groups or not self._enter(memory):
                    self._round(values)
                return self._total[:-_EXTRA] / self._total[_MEMBERS]
            except RuntimeError as error:  # gloo: a connection was closed, or a member silent for too long
                failures += 1
                if failures > _MOST_FAILURES:
                    raise
                self._fail(error)

    @property
    def has_left_out(self) -> bool:
        """Whether a worker, this one or another, was left out."""
        self._has_left_out = self._has_left_out or self._store.check([_LEFT_OUT])
        return self._has_left_out

    def leave_out(self) -> None:
        """Say to all workers that one does not answer."""
        self._store.set(_LEFT_OUT, "yes")

    def leave(self, memory: Sequence[torch.Tensor]) -> None:
        """Say that nobody needs to wait for this worker any more, once all members have the result of its last round.

        Args:
            memory: as for `average`, after the last round.
        """
        try:
            self._wait_for_results(memory)
            self._store.set(f"left/{self._rank}", "yes")
        except RuntimeError as error:  # the store went with the worker that kept it, which had waited for all
            logger.info("diloco: nobody is left to hear that worker %d leaves: %s", self._rank, _first_line(error))
        self._end_epoch()

    def _wait_for_results(self, memory: Sequence[torch.Tensor]) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while len(self._total) and time.monotonic() < deadline:
            results = [_result_of(self._version, rank) for rank in self.members]
            knock = f"{self._epoch + len(self._groups)}/knock"
            self._wait(results, instead=knock)
            if self._store.check(results):
                break
            if self._store.check([knock]):
                self._end_epoch()
                try:
                    self._enter(memory)
                except RuntimeError as error:  # who knocked is gone
                    self._fail(error)

    def _round(self, values: torch.Tensor) -> None:
        epoch, count = self._version
        version = (epoch, count + 1) if epoch == self._epoch else (self._epoch, 1)
        self._tried.append(version)
        is_first = self._rank == self.members[0]
        knocks = is_first and self._store.check([f"{self._epoch + 1}/knock"])
        self._total = _sum(self._groups[0], torch.cat([values, torch.tensor([1.0, float(knocks)])]))
        self._remember(version)
        if self._total[_KNOCKS] > 0:
            self._end_epoch()

    def _remember(self, version: Version) -> None:
        """Note, and tell, that the result of a round is here."""
        self._version, self._tried = version, []
        self._has_left_out |= bool(self._total[_MEMBERS] < len(self._everyone))
        self._store.set(_result_of(version, self._rank), "yes")

    def _fail(self, error: RuntimeError) -> None:
        logger.warning("diloco: epoch %d of workers %s ends: %s", self._epoch, self.members, _first_line(error))
        self._end_epoch()

    def _end_epoch(self) -> None:
        self._groups.clear()  # a member that still waits there learns that nobody comes
        self._epoch += 1

    def _enter(self, memory: Sequence[torch.Tensor]) -> bool:
        """Become a member of the first epoch that this worker is in.

        Returns:
            whether the round that this worker tried turned out to be done.
        """
        standings = self._join() if self._epoch else dict.fromkeys(self._everyone, Standing(self._version, ()))
        self.members = sorted(standings)
        store = dist.PrefixStore(f"{self._epoch}/group", self._store)
        timeout = timedelta(seconds=self._timeout_seconds)
        group = dist.ProcessGroupGloo(store, self.members.index(self._rank), len(self.members), timeout)
        is_done = self._catch_up(group, standings, memory)
        self._groups.append(group)
        return is_done

    def _join(self) -> Mapping[int, Standing]:
        """Return how the members of the first epoch that this worker is in stand, by rank."""
        while True:
            standing = json.dumps({"version": self._version, "tried": self._tried})
            self._store.set(f"{self._epoch}/here/{self._rank}", standing)
            self._store.set(f"{self._epoch}/knock", "yes")
            members = self._close()
            if self._rank in members:
                return {rank: self._standing_of(rank) for rank in members}
            logger.warning("diloco: epoch %d began without worker %d", self._epoch, self._rank)
            self.members, self._has_left_out = members, True
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
        self, group: dist.ProcessGroupGloo, standings: Mapping[int, Standing], memory: Sequence[torch.Tensor]
    ) -> bool:
        newest = max(standing.version for standing in standings.values())
        if all(standing.version == newest for standing in standings.values()):
            return False
        options = dist.BroadcastOptions()
        options.rootRank = next(index for index, rank in enumerate(self.members) if standings[rank].version == newest)
        group.broadcast([self._total], options).wait()
        is_done = standings[self._rank].is_given_result(newest)
        if any(standing.is_given_memory(newest) for standing in standings.values()):
            for tensor in memory:  # who is given the result has yet to use it
                group.broadcast([tensor.clone() if is_done else tensor], options).wait()
        self._remember(newest)
        return is_done

    def _standing_of(self, rank: int) -> Standing:
        said = json.loads(self._store.get(f"{self._epoch}/here/{rank}"))
        return Standing(tuple(said["version"]), [tuple(version) for version in said["tried"]])

    def _wait(self, keys: Collection[str], *, instead: str) -> None:
        """Wait for keys in the store, until another key is there first, or time is up."""
        deadline = time.monotonic() + self._timeout_seconds
        while time.monotonic() < deadline and not self._store.check([instead]):
            with contextlib.suppress(RuntimeError):  # they are not there yet
                self._store.wait(list(keys), timedelta(seconds=min(_POLL_SECONDS, self._timeout_seconds)))
                return


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]


def _result_of(version: Version, rank: int) -> str:
    epoch, count = version
    return f"{epoch}/result/{count}/{rank}"


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
