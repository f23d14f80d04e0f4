"""Make the world fit the ledger: copies that run, the route in force. Idempotent; safe after a crash at any point."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.errors import SlipwayError
from pipelines.ledger import Phase, Rollout, Snapshot, Version
from pipelines.release.ports import FULL_BP, Address, Fleet, Observed, Route, Router, Split, Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arms:
    """Which versions take part in a service's traffic at present, and how."""

    stable: Version | None
    canary: Version | None = None
    canary_bp: int = 0
    mirror_bp: int = 0
    session_header: str = ""
    leaving: Version | None = None
    """The one of the two that is on its way out: left running while it is there, never started."""

    @property
    def wanted(self) -> tuple[Version, ...]:
        """Versions whose copies must run."""
        return tuple(version for version in (self.stable, self.canary) if version and version != self.leaving)

    @property
    def receiver(self) -> Version | None:
        """The version that gets the users."""
        return self.canary if self.canary_bp else self.stable


@dataclass(frozen=True)
class World:
    """What there is after reconciling."""

    running: frozenset[str]
    ready: frozenset[str]
    is_routed: bool
    """The router does what the ledger desires."""


def arms(snapshot: Snapshot) -> Arms:
    """Return which versions the ledger wants in traffic, by the rules of the rollout, else of what is in production."""
    rollout, champion = snapshot.rollout, snapshot.service.champion
    if rollout is None or not rollout.state.is_active:
        return Arms(champion, session_header=champion.rollout.session_header if champion else "")
    return replace(_arms_of(rollout), session_header=rollout.config.session_header)


def _arms_of(rollout: Rollout) -> Arms:
    stable, candidate, state = rollout.stable, rollout.candidate, rollout.state
    match state.phase:
        case Phase.DRAIN_OLD:
            staying = Arms(stable=candidate)
            return staying if state.is_done else Arms(stable, candidate, state.canary_bp, leaving=stable)
        case Phase.ROLLING_BACK:
            return Arms(stable=stable) if state.is_done else Arms(stable, candidate, leaving=candidate)
        case _:
            is_mirrored = state.phase is Phase.SHADOW and rollout.config.shadow_seconds > 0
            return Arms(stable, candidate, state.canary_bp, mirror_bp=FULL_BP if is_mirrored else 0)


def generation(snapshot: Snapshot) -> int:
    """Return the fencing token of what the ledger wants."""
    rollout = snapshot.rollout
    return rollout.state.generation if rollout is not None and rollout.state.is_active else snapshot.service.generation


def leaving_copy(rollout: Rollout) -> str | None:
    """Return the copy that a rollout drains at present."""
    match rollout.state.phase:
        case Phase.DRAIN_OLD if rollout.stable is not None:
            return rollout.stable.copy_name
        case Phase.ROLLING_BACK:
            return rollout.candidate.copy_name
        case _:
            return None


def reconcile(snapshot: Snapshot, port: int, fleet: Fleet, router: Router) -> World:
    """Start what is missing, route, and only then stop what nobody needs.

    Raises:
        SlipwayError: whatever a port raises; the next call goes on from there. A copy that cannot be started does not
            keep users from the one that is there already.
    """
    service, wanted, token = snapshot.service.name, arms(snapshot), generation(snapshot)
    observed = router.observe(service)
    addresses, failure = _started(wanted, observed, fleet)
    ready = frozenset(copy for copy in addresses if fleet.ready(copy))
    is_routed = observed is None and not wanted.wanted  # a first release that ends before anything was routed
    route = desired_route(wanted, addresses, ready, observed, service=service, port=port)
    if route is not None and not is_routed:
        if not _is_in_force(observed, route, token):
            router.apply(route, token)
            observed = router.observe(service)
        is_routed = _is_in_force(observed, route, token)
    if failure is not None:
        raise failure
    running = fleet.list(service)
    if is_routed:
        running = _stop_others(running, wanted, fleet)
    return World(running=running, ready=ready & running, is_routed=is_routed)


def _started(wanted: Arms, observed: Observed | None, fleet: Fleet) -> tuple[dict[str, Address], SlipwayError | None]:
    """Start what must run; return where copies listen, and the first failure."""
    addresses, failure = _targets(observed), None
    for version in wanted.wanted:
        try:
            addresses[version.copy_name] = fleet.start(version)
        except SlipwayError as error:
            failure = failure or error
    return addresses, failure


def desired_route(
    wanted: Arms,
    addresses: Mapping[str, Address],
    ready: frozenset[str],
    observed: Observed | None,
    *,
    service: str,
    port: int,
) -> Route | None:
    """Return the route that the ledger wants, or None while it would send users to a copy that is not ready.

    Users who are with a copy already stay with it, ready or not: moving them blindly could only make it worse. A
    candidate joins the route when it is ready.
    """
    receiver, joined = wanted.receiver, _targets(observed)
    if receiver is not None and receiver.copy_name not in ready and receiver.copy_name != _receiving(observed):
        return None
    canary = wanted.canary if wanted.canary and wanted.canary.copy_name in (ready | joined.keys()) else None
    versions = [version for version in (canary, wanted.stable) if version]
    return Route(
        service=service,
        port=port,
        stable=_target(wanted.stable, addresses),
        canary=_target(canary, addresses),
        split=Split(canary_bp=wanted.canary_bp, mirror_bp=wanted.mirror_bp if canary else 0),
        is_idempotent=all(version.is_idempotent for version in versions),
        session_header=wanted.session_header,
        silence_seconds=max((version.silence_seconds for version in versions), default=Route.silence_seconds),
    )


def _receiving(observed: Observed | None) -> str | None:
    if observed is None:
        return None
    target = observed.route.canary if observed.route.split.canary_bp else observed.route.stable
    return target.copy if target else None


def _target(version: Version | None, addresses: Mapping[str, Address]) -> Target | None:
    if version is None or version.copy_name not in addresses:
        return None
    return Target(version.copy_name, addresses[version.copy_name])


def _targets(observed: Observed | None) -> dict[str, Address]:
    if observed is None:
        return {}
    return {target.copy: target.address for target in (observed.route.stable, observed.route.canary) if target}


def _is_in_force(observed: Observed | None, route: Route, token: int) -> bool:
    return observed is not None and observed.route == route and observed.generation >= token


def _stop_others(running: frozenset[str], wanted: Arms, fleet: Fleet) -> frozenset[str]:
    kept = {version.copy_name for version in (wanted.stable, wanted.canary) if version is not None}
    for copy in sorted(running - kept):
        fleet.stop(copy)
        logger.info("stopped copy %s", copy)
    return running & kept
