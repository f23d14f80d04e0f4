"""Send reference requests and recorded ones to both versions of a rollout, as pinned traffic: a stratum of its own.

Each reference is scored once per pair of models and kept in the ledger: quality by pairs. Afterwards the references go
round and round and take turns with what the old version's copy recorded of its users, which tells about errors, latency
and validity where users are few. A recorded request has no right answer, so it makes no pair; and it is sent once per
pair of models: a version that fails, or is slow, for one prompt is so each time, and a few prompts sent again and again
would look like evidence about all. Nothing here decides, and no look waits for it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef, canonical_json
from pipelines.errors import SlipwayError
from pipelines.formats.bento import SOURCE
from pipelines.formats.requests import REFERENCE_FILE, RecordedRequest, ReferenceRequest, parse_requests
from pipelines.ledger import Pair, Phase, Rollout, Version
from pipelines.release.ports import Arm, Fleet, Probe, ProbeFailed
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
    fleet: Fleet
    probe: Probe
    clock: Callable[[], float] = time.monotonic

    def keep_replaying(self, service: str, stopping: threading.Event) -> None:
        """Replay whenever the service has a rollout under comparison, until told to stop."""
        repeated: set[str] = set()
        while not stopping.is_set():
            try:
                for pause in self.replay(service, repeated):
                    if stopping.wait(pause):
                        return
            except SlipwayError as error:
                logger.info("%s: replaying pauses: %s", service, error)
            except Exception:
                logger.exception("%s: replaying failed unexpectedly; trying again", service)
            stopping.wait(IDLE_SECONDS)

    def replay(self, service: str, repeated: set[str]) -> Iterator[float]:
        """Send one request after the other to both while they are compared; yield how long to wait before the next.

        References that were not scored yet come first. One that is not answered waits for its next turn: the failure is
        counted where all are, and must not keep the others from being scored.

        Args:
            service: whose rollout it is.
            repeated: keys of the recorded requests that were sent before; those sent now are added.

        Raises:
            LedgerUnavailable, ArtifactMissing, ArtifactCorrupt: begin again.
        """
        rollout, port = self._replayed(service)
        if rollout is None or rollout.stable is None or port is None:
            return
        known = ledger.list_pairs(self.url, service, rollout.stable.model, rollout.candidate.model)
        scored = {pair.reference for pair in known}
        interval = 1.0 / rollout.config.replay.requests_per_second
        due = looked_at = self.clock()
        for request in self._in_turn(rollout, rollout.stable, scored, repeated):
            if isinstance(request, RecordedRequest):
                repeated.add(_key_for(rollout, request))
                self._repeat(rollout, port, request)
            else:
                self._score(rollout, port, request, scored)
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

    def _in_turn(
        self, rollout: Rollout, stable: Version, scored: Collection[str], repeated: Collection[str]
    ) -> Iterator[ReferenceRequest | RecordedRequest]:
        """Yield the references that are not scored, then references and new recorded requests by turns.

        The copy goes on recording, so each round takes what is there at its beginning.
        """
        references = _references(self.store, rollout.candidate.bento)
        yield from [reference for reference in references if key_of(reference) not in scored]
        while requests := _by_turns(references, self._recorded(rollout, stable, repeated)):
            yield from requests

    def _recorded(self, rollout: Rollout, stable: Version, repeated: Collection[str]) -> list[RecordedRequest]:
        """Return what the old version's copy has recorded and the new version was not asked yet, each once."""
        found = {_key_for(rollout, request): request for request in self.fleet.recorded(stable.copy_name)}
        return [request for key, request in found.items() if key not in repeated]

    def _score(self, rollout: Rollout, port: int, reference: ReferenceRequest, scored: set[str]) -> None:
        try:
            scores = {arm: self.probe.score(port, arm, reference) for arm in Arm}
        except ProbeFailed as error:
            logger.info("%s: reference %s: %s", rollout, reference.id, error)
            return
        if rollout.stable is not None and key_of(reference) not in scored:
            pair = Pair(key_of(reference), stable_score=scores[Arm.STABLE], candidate_score=scores[Arm.CANARY])
            ledger.insert_pair(self.url, rollout.service, rollout.stable.model, rollout.candidate.model, pair)
            scored.add(key_of(reference))

    def _repeat(self, rollout: Rollout, port: int, request: RecordedRequest) -> None:
        """Send it to both, also when one gives no answer: both must meet the same requests."""
        for arm in Arm:
            try:
                self.probe.repeat(port, arm, request)
            except ProbeFailed as error:
                logger.info("%s: a recorded request to %s: %s", rollout, arm, error)


def key_of(reference: ReferenceRequest) -> str:
    """Return what a reference is called in the ledger: ids come from the data and may be of any length."""
    return hashlib.sha256(reference.id.encode()).hexdigest()


def _key_for(rollout: Rollout, request: RecordedRequest) -> str:
    """Return what a recorded request is called among those that these two models were asked."""
    models = [version.model.digest for version in (rollout.stable, rollout.candidate) if version]
    return hashlib.sha256(canonical_json([*models, request.model_dump(mode="json")])).hexdigest()


def _is_compared_now(rollout: Rollout) -> bool:
    state = rollout.state
    is_watched = state.phase in (Phase.SHADOW, Phase.STEP) and rollout.is_compared
    return is_watched and state.confirmed_bp is not None and rollout.config.replay.requests_per_second > 0


def _by_turns(
    references: Sequence[ReferenceRequest], recorded: Sequence[RecordedRequest]
) -> list[ReferenceRequest | RecordedRequest]:
    return [request for pair in zip_longest(references, recorded) for request in pair if request is not None]


@functools.lru_cache(maxsize=4)
def _references(store: Store, bento: ArtifactRef) -> tuple[ReferenceRequest, ...]:
    """Return the requests in the candidate's bento, each once; held out from its training by the split of its data."""
    path = f"{SOURCE}/{REFERENCE_FILE}"
    found = parse_requests(artifacts.read_file(store, bento, path), ReferenceRequest, path)
    return tuple({reference.id: reference for reference in found}.values())
