"""The controller: the only process that looks, decides and raises weights.

One thread per service, so that a slow start or drain of one never delays another's look. Everything that a look needs
is read from the ledger and from the world; nothing is remembered between looks, so the process may die at any moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines import ledger
from pipelines.errors import LedgerUnavailable, SlipwayError, StoreUnavailable
from pipelines.ledger import Phase, Rollout, RolloutState, Snapshot, StaleRollout
from pipelines.release import audit, offers, vetting
from pipelines.release import reconcile as worlds
from pipelines.release.admission import admit
from pipelines.release.counting import take_reading
from pipelines.release.ports import Fleet, Probe, Router
from pipelines.release.replayer import Replayer
from pipelines.release.rollout import LEARNING, WATCHED, Seen, advance, champion_after
from pipelines.settings import Settings
from pipelines.store import Store

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
            return self._move(rollout, self._admitted(rollout, snapshot))
        seen = self._see(snapshot)
        if rollout is None:
            if seen.problem:
                logger.warning("%s: %s", service, seen.problem)
            return False
        return self._move(rollout, advance(rollout, seen), seen)

    def remove_unknown(self) -> None:
        """Stop the copies of services that the ledger does not know."""
        known = {copy for service in ledger.list_services(self.url) for copy in self.fleet.list(service)}
        for copy in sorted(self.fleet.list() - known):
            logger.warning("copy %s belongs to no service of the ledger; stopping it", copy)
            self.fleet.stop(copy)

    def _admitted(self, rollout: Rollout, snapshot: Snapshot) -> RolloutState:
        was_promoted = ledger.was_promoted(self.url, rollout.service, rollout.candidate.model)
        trials = ledger.earlier_trials(self.url, rollout)
        return admit(rollout, snapshot.service, trials=trials, was_promoted=was_promoted, now=snapshot.now)

    def _see(self, snapshot: Snapshot) -> Seen:
        """Reconcile, ask and count. A problem is part of what is seen; deadlines decide how long it may last.

        What cannot be reconciled at present must not keep a bad candidate from being counted.
        """
        seen = Seen(now=snapshot.now, permits=snapshot.permits)
        for part in (self._reconcile, self._ask, self._count):
            try:
                seen = part(snapshot, seen)
            except LedgerUnavailable:
                raise
            except SlipwayError as error:
                if not seen.problem:
                    seen = replace(seen, problem=str(error), is_hopeless=_tells_against_the_candidate(error))
        return seen

    def _reconcile(self, snapshot: Snapshot, seen: Seen) -> Seen:
        world = worlds.reconcile(snapshot, self._port(snapshot), self.fleet, self.router)
        return replace(seen, running=world.running, ready=world.ready, is_routed=world.is_routed)

    def _port(self, snapshot: Snapshot) -> int:
        service = snapshot.service
        if service.port is not None:
            return service.port
        return ledger.claim_port(self.url, service.name, self.router.free_ports())

    def _ask(self, snapshot: Snapshot, seen: Seen) -> Seen:
        """Ask what only this phase wants to know."""
        rollout = snapshot.rollout
        if rollout is None or seen.problem:
            return seen
        port = self._port(snapshot)
        match rollout.state:
            case RolloutState(phase=Phase.STAGE | Phase.SMOKE | Phase.WARMUP, is_done=False):
                return self._ask_candidate(rollout, port, seen)
            case RolloutState(phase=Phase.PROMOTING, confirmed_bp=int()):
                return replace(seen, served=self.probe.served(port))
            case RolloutState(phase=Phase.ROLLING_BACK, is_done=True) if rollout.stable is not None:
                return replace(seen, served=self.probe.served(port))
            case RolloutState(is_done=False) if (copy := worlds.leaving_copy(rollout)) is not None:
                return replace(seen, in_flight=self.router.drain(rollout.service, copy))
            case _:
                return seen

    def _ask_candidate(self, rollout: Rollout, port: int, seen: Seen) -> Seen:
        """Ask the candidate before anybody else does."""
        candidate, stable = rollout.candidate, rollout.stable
        if candidate.copy_name not in seen.ready or not seen.is_routed:
            return seen
        match rollout.state.phase:
            case Phase.SMOKE:
                return replace(seen, smoke=self.probe.smoke(port, candidate))
            case Phase.WARMUP:
                self.probe.warm_up(port, candidate, rollout.config.warmup_requests)
                return replace(seen, is_warm=True)
            case _ if stable is None or not rollout.is_compared or stable.copy_name in seen.ready:
                refusal = vetting.reason_to_refuse(rollout, port, self.fleet, self.router, self.probe)
                return replace(seen, refusal=refusal)
            case _:
                return seen

    def _count(self, snapshot: Snapshot, seen: Seen) -> Seen:
        """Read the counts where they decide."""
        rollout = snapshot.rollout
        if rollout is None or not rollout.is_compared or rollout.state.phase not in (*LEARNING, *WATCHED):
            return seen
        reading = take_reading(rollout, seen.now, url=self.url, fleet=self.fleet, router=self.router)
        return replace(seen, reading=reading)

    def _move(self, rollout: Rollout, state: RolloutState, seen: Seen | None = None) -> bool:
        if state == rollout.state:
            return False
        kind = _kind(rollout.state, state)
        facts = audit.facts_of_admission(state) if seen is None else audit.facts_of_look(rollout, seen, state)
        try:
            moved = ledger.save(self.url, rollout, state, kind, champion=champion_after(rollout, state), **facts)
        except StaleRollout as stale:
            logger.info("%s; looking again", stale)
            return True
        _tell(rollout.state, moved, kind)
        return kind not in ("held", "look")


def _kind(before: RolloutState, after: RolloutState) -> str:
    if (before.phase, before.step) != (after.phase, after.step):
        return str(after.phase)
    if before.is_done != after.is_done:
        return f"{after.phase}_done"
    if before.confirmed_bp != after.confirmed_bp:
        return "confirmed"
    return "held" if before.evidence == after.evidence else "look"


def _tell(before: RolloutState, rollout: Rollout, kind: str) -> None:
    state = rollout.state
    if kind == "look" and before.hold_reason == state.hold_reason:
        return
    level = logging.ERROR if state.phase is Phase.ROLLBACK_FAILED else logging.INFO
    why = state.hold_reason or state.detail
    logger.log(level, "%s: %s at %.2f %%%s", rollout, kind, state.canary_bp / 100, f": {why}" if why else "")


def run_controller(settings: Settings) -> None:
    """Look, decide and act until this process is told to stop.

    Raises:
        LedgerUnavailable: when the ledger goes away, and with it the lock; the supervisor starts the next controller.
    """
    from pipelines.release import adapters

    url = settings.ledger_url()
    stopping = threading.Event()
    served: set[str] = set()
    with ledger.controller_lock(url) as still_locked:
        ledger.beat(url)
        controller = Controller(url, *adapters.connect(settings))
        replayer = Replayer(url, Store(settings.store_url()), controller.fleet, controller.probe)
        controller.remove_unknown()
        _in_background("offers", offers.keep_fresh, settings, stopping)
        logger.info("the controller is at work")
        try:
            while True:
                still_locked()
                ledger.beat(url)
                for service in set(ledger.list_services(url)) - served:
                    served.add(service)
                    _in_background(f"look-{service}", keep_looking, controller, service, stopping)
                    _in_background(f"replay-{service}", replayer.keep_replaying, service, stopping)
                stopping.wait(HEARTBEAT_SECONDS)
        finally:
            stopping.set()


def _in_background(name: str, target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, name=name, daemon=True).start()


def keep_looking(controller: Controller, service: str, stopping: threading.Event) -> None:
    """Look at one service until told to stop; after a move at once again, else after the time that its spec sets."""
    while not stopping.is_set():
        pause = IDLE_LOOK_SECONDS
        try:
            while controller.look(service) and not stopping.is_set():
                pass
            snapshot = ledger.snapshot(controller.url, service)
            if snapshot is not None and snapshot.rollout is not None:
                pause = _pause_before(snapshot.rollout)
        except SlipwayError as error:
            logger.warning("%s: no look: %s", service, error)
        except Exception:
            logger.exception("%s: a look failed unexpectedly; looking again", service)
        stopping.wait(pause)


def _tells_against_the_candidate(error: SlipwayError) -> bool:
    """Return whether a problem would stay for this candidate; a store that refuses the controller refuses any."""
    return not (error.retryable or isinstance(error, StoreUnavailable))


def _pause_before(rollout: Rollout) -> float:
    """Return how long to wait before the next look: counts need time to grow, a start or a permit is found quickly."""
    look = rollout.config.look_seconds
    return look if rollout.state.phase in WATCHED else min(look, IDLE_LOOK_SECONDS / 2)
