"""What a candidate must offer, and stable must be, before the two are compared under traffic."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.formats.headers import Traffic
from pipelines.ledger import Rollout, Version
from pipelines.release import sequential
from pipelines.release.ports import Arm, Capability, Fleet, Probe, Router
from pipelines.spec import RolloutConfig


def reason_to_refuse(rollout: Rollout, port: int, fleet: Fleet, router: Router, probe: Probe) -> str:
    """Return why a candidate that is ready must not be compared with stable, or nothing.

    Raises:
        SlipwayError: whatever a port raises.
    """
    stable, config = rollout.stable, rollout.config
    if stable is None or not rollout.is_compared:
        return ""
    lost = probe.interface(port, Arm.STABLE) - probe.interface(port, Arm.CANARY)
    if lost:
        return f"the new version no longer offers {', '.join(sorted(lost)[:5])}; its clients would break"
    return _cannot(config, router.capabilities) or _hopeless_baseline(fleet, stable, config.max_bad_rate)


def _cannot(config: RolloutConfig, capabilities: Collection[Capability]) -> str:
    """Return what the rollout asks of the router that it cannot do, or nothing."""
    if config.session_header and Capability.SESSIONS not in capabilities:
        return "rollout.session_header: this router cannot count sessions; leave it empty"
    if Capability.COUNTS not in capabilities:
        return "nobody knows how to read this router's counts, so two versions cannot be compared behind it"
    if config.shadow_seconds and Capability.MIRROR not in capabilities:
        return "rollout.shadow_seconds: this router cannot mirror requests; set it to 0"
    return ""


def _hopeless_baseline(fleet: Fleet, stable: Version, max_bad_rate: float) -> str:
    """Return why no version as good as stable could ever advance, with the figure, or nothing."""
    counters = fleet.meter(stable.copy_name).get(Traffic.USER)
    if counters is None:
        return ""
    n, bad = counters.requests, counters.failed
    if sequential.may_ever_advance(n, bad, max_bad_rate=max_bad_rate):
        return ""
    return (
        f"{bad} of stable's {n} answers are bad ({100 * bad / n:.2f} %): even as good a version could hardly show that "
        f"its rate is below rollout.max_bad_rate, {100 * max_bad_rate:g} %; raise it, or mend what is in production"
    )
