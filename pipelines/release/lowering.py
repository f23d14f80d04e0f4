"""What anyone may do, with the controller alive or dead: ask for a rollback, and take users away from a candidate."""

from __future__ import annotations

import logging
from dataclasses import replace

from pipelines import ledger
from pipelines.errors import SlipwayError
from pipelines.ledger import Outcome, Rollout, StaleRollout
from pipelines.release.ports import Fleet, Router, Split
from pipelines.release.rollout import champion_after, may_be_lowered, roll_back

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 60.0
"""A controller that was silent for so long, or for six looks, counts as dead."""


class ControllerSilent(SlipwayError):
    """Nobody decides: the controller has given no sign of life."""

    retryable = True


def request_rollback(
    url: str, rollout_id: int, outcome: Outcome, detail: str, *, fleet: Fleet, router: Router
) -> Rollout:
    """Write down that a rollout goes back, and take its users away at once; the controller does the rest.

    A rollback that is under way or over stays as it is.
    """
    while True:
        rollout = ledger.read_rollout(url, rollout_id)
        state = roll_back(rollout, outcome, detail, ledger.current_time(url))
        if state == rollout.state:
            return rollout
        try:
            moved = ledger.save(url, rollout, state, str(state.phase), champion=champion_after(rollout, state))
        except StaleRollout:
            continue
        _lower(moved, fleet, router)
        return moved


def check_controller(url: str, rollout: Rollout, since: float, *, fleet: Fleet, router: Router) -> None:
    """Do nothing while the controller lives; when it is dead, take users away from the candidate, and say so.

    That is done only when the old version is ready for them; otherwise the error is all there is.

    Args:
        url: the ledger.
        rollout: what is waited for.
        since: when the wait began, by the ledger's clock; a controller gets its time from there on.
        fleet: to ask whether the old version is ready.
        router: to lower the weight.

    Raises:
        ControllerSilent: when it is dead.
    """
    silence = ledger.silence_seconds(url, since)
    if silence <= max(SILENCE_SECONDS, 6 * rollout.config.look_seconds):
        return
    problem = f"the controller has been silent for {silence:.0f} s"
    if may_be_lowered(rollout) and rollout.stable is not None and fleet.ready(rollout.stable.copy_name):
        request_rollback(url, rollout.id, Outcome.DEAD_MAN, problem, fleet=fleet, router=router)
        problem += f"; users of {rollout.service} were sent back to version {rollout.stable.number}"
    raise ControllerSilent(f"{rollout}: {problem}; start it (`make up`), then clear this task")


def _lower(rollout: Rollout, fleet: Fleet, router: Router) -> None:
    """Set the candidate's weight to 0 in the router, if stable is ready; without a router the record must do."""
    try:
        observed = router.observe(rollout.service)
        if observed is None or observed.route.stable is None or observed.route.split.canary_bp == 0:
            return
        if fleet.ready(observed.route.stable.copy):
            router.apply(replace(observed.route, split=Split(canary_bp=0)), rollout.state.generation)
    except SlipwayError as error:
        logger.warning("%s: the weight is lowered by the controller: %s", rollout, error)
