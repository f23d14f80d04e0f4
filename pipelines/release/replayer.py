"""Send reference requests to both versions of a rollout: quality by pairs, in a stratum of its own.

Each reference is scored once per pair of models and kept in the ledger; afterwards the same requests go on as pinned
traffic, which tells about errors and latency where users are few. Nothing here decides, and no look waits for it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import SlipwayError
from pipelines.formats.bento import SOURCE
from pipelines.formats.requests import REFERENCE_FILE, ReferenceRequest, parse_requests
from pipelines.ledger import Pair, Phase, Rollout
from pipelines.release.ports import Arm, Probe, ProbeFailed
from pipelines.store import Store

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between two glances at whether there is a rollout to replay for."""


@dataclass(frozen=True)
class Replayer:
    """Replays for one service at a time; the controller gives each service a thread."""

    url: str
    """The ledger."""

    store: Store
    probe: Probe
    clock: Callable[[], float] = time.monotonic

    def keep_replaying(self, service: str, stopping: threading.Event) -> None:
        """Replay whenever the service has a rollout under comparison, until told to stop."""
        while not stopping.is_set():
            try:
                for pause in self.replay(service):
                    if stopping.wait(pause):
                        return
            except SlipwayError as error:
                logger.info("%s: replaying pauses: %s", service, error)
            except Exception:
                logger.exception("%s: replaying failed unexpectedly; trying again", service)
            stopping.wait(IDLE_SECONDS)

    def replay(self, service: str) -> Iterator[float]:
        """Send one pair after the other while the rollout is compared; yield how long to wait before the next.

        References that were not scored yet come first. One that is not answered waits for its next turn: the failure is
        counted where all are, and must not keep the others from being scored.

        Raises:
            LedgerUnavailable, ArtifactMissing, ArtifactCorrupt: begin again.
        """
        rollout, port = self._replayed(service)
        if rollout is None or rollout.stable is None or port is None:
            return
        known = ledger.list_pairs(self.url, service, rollout.stable.model, rollout.candidate.model)
        scored = {pair.reference for pair in known}
        references = sorted(_references(self.store, rollout.candidate.bento), key=lambda one: key_of(one) in scored)
        interval = 1.0 / rollout.config.replay.requests_per_second
        due = looked_at = self.clock()
        for reference in itertools.cycle(references):
            try:
                self._replay(rollout, port, reference, scored)
            except ProbeFailed as error:
                logger.info("%s: reference %s: %s", rollout, reference.id, error)
            due = max(due + interval, self.clock())
            yield due - self.clock()
            if self.clock() - looked_at > IDLE_SECONDS:
                looked_at = self.clock()
                present, _ = self._replayed(service)
                if present is None or present.id != rollout.id:
                    return

    def _replayed(self, service: str) -> tuple[Rollout | None, int | None]:
        snapshot = ledger.snapshot(self.url, service)
        if snapshot is None or snapshot.rollout is None or not _is_compared_now(snapshot.rollout):
            return None, None
        return snapshot.rollout, snapshot.service.port

    def _replay(self, rollout: Rollout, port: int, reference: ReferenceRequest, scored: set[str]) -> None:
        scores = {arm: self.probe.score(port, arm, reference) for arm in Arm}
        if rollout.stable is not None and key_of(reference) not in scored:
            pair = Pair(key_of(reference), stable_score=scores[Arm.STABLE], candidate_score=scores[Arm.CANARY])
            ledger.insert_pair(self.url, rollout.service, rollout.stable.model, rollout.candidate.model, pair)
            scored.add(key_of(reference))


def key_of(reference: ReferenceRequest) -> str:
    """Return what a reference is called in the ledger: ids come from the data and may be of any length."""
    return hashlib.sha256(reference.id.encode()).hexdigest()


def _is_compared_now(rollout: Rollout) -> bool:
    state = rollout.state
    is_watched = state.phase in (Phase.SHADOW, Phase.STEP) and rollout.is_compared
    return is_watched and state.confirmed_bp is not None and rollout.config.replay.requests_per_second > 0


@functools.lru_cache(maxsize=4)
def _references(store: Store, bento: ArtifactRef) -> tuple[ReferenceRequest, ...]:
    """Return the requests in the candidate's bento, each once; held out from its training by the split of its data."""
    path = f"{SOURCE}/{REFERENCE_FILE}"
    found = parse_requests(artifacts.read_file(store, bento, path), ReferenceRequest, path)
    return tuple({reference.id: reference for reference in found}.values())
