"""The controller: the only process that looks, decides and raises weights.

One thread per service, so that a slow start or drain of one never delays another's look. Everything that a look needs
is read from the ledger and from the world; nothing is remembered between looks, so the process may die at any moment.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace

from pipelines import ledger
from pipelines.errors import LedgerUnavailable, SlipwayError
from pipelines.ledger import Phase, Rollout, RolloutState, Snapshot, StaleRollout
from pipelines.release import reconcile as worlds
from pipelines.release.ports import Fleet, Probe, Router
from pipelines.release.rollout import Seen, admit, advance, champion_after
from pipelines.settings import Settings

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
IDLE_LOOK_SECONDS = 2.0
"""Between two looks at a service without a rollout; it is also how long a new rollout may go unnoticed, at most."""


@dataclass(frozen=True)
class Controller:
    """Looks at one service at a time; `run_controller` gives each its thread."""

    url: str
    """The ledger."""

    fleet: Fleet
    router: Router
    probe: Probe

    def look(self, service: str) -> bool:
        """Make the world fit the ledger, see what there is, decide, write it down; return whether anything moved.

        Raises:
            LedgerUnavailable: nothing is decided without the ledger.
        """
        snapshot = ledger.snapshot(self.url, service)
        if snapshot is None:
            return False
        rollout = snapshot.rollout
        if rollout is not None and rollout.state.phase is Phase.QUEUED:
            was_promoted = ledger.was_promoted(self.url, service, rollout.candidate.model)
            return self._move(
                rollout, admit(rollout, snapshot.service, was_promoted=was_promoted, now=snapshot.now), snapshot
            )
        seen = self._see(snapshot)
        if rollout is None:
            if seen.problem:
                logger.warning("%s: %s", service, seen.problem)
            return False
        return self._move(rollout, advance(rollout, seen), snapshot)

    def remove_unknown(self) -> None:
        """Stop the copies of services that the ledger does not know."""
        known = {copy for service in ledger.list_services(self.url) for copy in self.fleet.list(service)}
        for copy in sorted(self.fleet.list() - known):
            logger.warning("copy %s belongs to no service of the ledger; stopping it", copy)
            self.fleet.stop(copy)

    def _see(self, snapshot: Snapshot) -> Seen:
        """Reconcile and look. A problem is part of what is seen; deadlines decide how long it may last."""
        seen = Seen(now=snapshot.now, permits=snapshot.permits)
        try:
            port = self._port(snapshot)
            world = worlds.reconcile(snapshot, port, self.fleet, self.router)
            seen = replace(seen, running=world.running, ready=world.ready, is_routed=world.is_routed)
            return seen if snapshot.rollout is None else self._ask(snapshot.rollout, port, seen)
        except LedgerUnavailable:
            raise
        except SlipwayError as error:
            return replace(seen, problem=str(error), is_hopeless=not error.retryable)

    def _port(self, snapshot: Snapshot) -> int:
        service = snapshot.service
        if service.port is not None:
            return service.port
        return ledger.claim_port(self.url, service.name, self.router.free_ports())

    def _ask(self, rollout: Rollout, port: int, seen: Seen) -> Seen:
        """Ask what only this phase wants to know."""
        match rollout.state:
            case RolloutState(phase=Phase.SMOKE, is_done=False):
                return replace(seen, smoke=self.probe.smoke(port, rollout.candidate))
            case RolloutState(phase=Phase.PROMOTING, confirmed_bp=int()):
                return replace(seen, served=self.probe.served(port))
            case RolloutState(phase=Phase.ROLLING_BACK, is_done=True) if rollout.stable is not None:
                return replace(seen, served=self.probe.served(port))
            case RolloutState(is_done=False) if (copy := worlds.leaving_copy(rollout)) is not None:
                return replace(seen, in_flight=self.router.drain(rollout.service, copy))
            case _:
                return seen

    def _move(self, rollout: Rollout, state: RolloutState, snapshot: Snapshot) -> bool:
        if state == rollout.state:
            return False
        kind = _kind(rollout.state, state)
        try:
            moved = ledger.save(self.url, rollout, state, kind, champion=champion_after(rollout, state))
        except StaleRollout as stale:
            logger.info("%s; looking again", stale)
            return True
        _tell(moved, kind)
        return kind != "held"


def _kind(before: RolloutState, after: RolloutState) -> str:
    if before.phase is not after.phase:
        return str(after.phase)
    if before.is_done != after.is_done:
        return f"{after.phase}_done"
    return "held" if before.confirmed_bp == after.confirmed_bp else "confirmed"


def _tell(rollout: Rollout, kind: str) -> None:
    state = rollout.state
    level = logging.ERROR if state.phase is Phase.ROLLBACK_FAILED else logging.INFO
    why = state.hold_reason or state.detail
    logger.log(level, "%s: %s at %.2f %%%s", rollout, kind, state.canary_bp / 100, f": {why}" if why else "")


def run_controller(settings: Settings) -> None:
    """Look, decide and act until this process is told to stop.

    Raises:
        LedgerUnavailable: when the ledger goes away, and with it the lock; the supervisor starts the next controller.
    """
    from pipelines.release.local import adapters

    url = settings.ledger_url()
    stopping = threading.Event()
    threads: dict[str, threading.Thread] = {}
    with ledger.controller_lock(url) as still_locked:
        ledger.beat(url)
        controller = Controller(url, *adapters.connect(settings))
        controller.remove_unknown()
        logger.info("the controller is at work")
        try:
            while True:
                still_locked()
                ledger.beat(url)
                for service in ledger.list_services(url):
                    if service not in threads:
                        threads[service] = threading.Thread(
                            target=keep_looking, args=(controller, service, stopping), name=service, daemon=True
                        )
                        threads[service].start()
                stopping.wait(HEARTBEAT_SECONDS)
        finally:
            stopping.set()


def keep_looking(controller: Controller, service: str, stopping: threading.Event) -> None:
    """Look at one service until told to stop; after a move at once again, else after the time that its spec sets."""
    while not stopping.is_set():
        pause = IDLE_LOOK_SECONDS
        try:
            while controller.look(service) and not stopping.is_set():
                pass
            snapshot = ledger.snapshot(controller.url, service)
            if snapshot is not None and snapshot.rollout is not None:
                pause = snapshot.rollout.candidate.rollout.look_seconds
        except SlipwayError as error:
            logger.warning("%s: no look: %s", service, error)
        except Exception:
            logger.exception("%s: a look failed unexpectedly; looking again", service)
        stopping.wait(pause)
