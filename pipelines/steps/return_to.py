"""Return a service to a version that was in production; what a person orders in Airflow's UI."""

from __future__ import annotations

from pipelines import ledger
from pipelines.backup.held import version_held
from pipelines.errors import BadInput, ReleaseRefused, RolledBack
from pipelines.ledger import Outcome, Phase
from pipelines.release import adapters, orders
from pipelines.release.lowering import check_controller
from pipelines.settings import Settings
from pipelines.spec import Frozen
from pipelines.step import RunInfo


class Inputs(Frozen):
    """What is ordered."""

    run: RunInfo
    """Its model is the service."""

    version: int | None = None
    """Version that was in production; None: the one before the present. A running rollout is aborted first, and is all
    that is undone when no version is named."""

    backup: str = ""
    """Name of a backup: the version that it holds as the one in production is wanted. Empty: `version` says."""

    rollout: int | None = None
    """The only rollout that may be aborted; nothing else is done. None: whatever is running."""

    person: str = "somebody in Airflow's UI"
    """Who orders it, for the audit."""


class Waiting(Frozen):
    """What a task waits for; small and plain, so that a trigger can carry it."""

    rollout: int
    since: float
    """When the wait began, by the ledger's clock."""

    then: int | None = None
    """Version to return to when this rollout is over."""

    run_id: str = ""
    person: str = ""


class Result(Frozen):
    """What serves now."""

    rollout: int
    version: int | None
    """Version that serves; None: nothing does."""

    detail: str


def begin(inputs: Inputs, settings: Settings) -> Waiting:
    """Abort what is under way, else open the rollout that returns to the version.

    Nothing is done before it is known that the version was in production, and that the backup is sound: every byte of
    it is read.

    Raises:
        BadInput: when there is no such service, or both a version and a backup are named.
        ReleaseRefused: when there is no such version to return to.
        BackupMissing, BackupDamaged: when the backup is not there, holds nothing of the service, or is not sound.
        LedgerUnavailable, StoreUnavailable: may be tried again.
    """
    url, service = settings.ledger_url(), inputs.run.model
    mine = ledger.find_rollout(url, service, inputs.run.run_id)
    if mine is not None and mine.state.phase not in (Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED):
        return Waiting(rollout=mine.id, since=ledger.current_time(url))
    present = orders.running(url, service)
    if inputs.rollout is not None and (present is None or present.id != inputs.rollout):
        return _already_over(url, service, inputs)
    version = _wanted(inputs, settings)
    if present is not None:
        fleet, router, _ = adapters.connect(settings)
        aborted = orders.abort(url, service, inputs.person, fleet=fleet, router=router)
        return Waiting(
            rollout=aborted.id,
            since=ledger.current_time(url),
            then=version,
            run_id=inputs.run.run_id,
            person=inputs.person,
        )
    rollout = orders.return_to(url, service, version, run_id=inputs.run.run_id, person=inputs.person)
    return Waiting(rollout=rollout.id, since=ledger.current_time(url))


def _wanted(inputs: Inputs, settings: Settings) -> int | None:
    """Return the number of the version to return to, which was in production; None: whichever was before."""
    if inputs.backup and inputs.version is not None:
        raise BadInput(f"name a version or a backup, not both: got {inputs.version} and {inputs.backup}")
    url, service = settings.ledger_url(), inputs.run.model
    if inputs.backup:
        return version_held(settings, inputs.backup, service)
    if inputs.version is not None:
        orders.check_promoted(url, service, inputs.version)
    return inputs.version


def _already_over(url: str, service: str, inputs: Inputs) -> Waiting:
    """Return the wait for a rollout that ended, or was aborted by an earlier try, before it could be aborted now."""
    over = ledger.find_rollout_by_id(url, inputs.rollout or 0)
    if over is None or over.service != service or over.state.phase is not Phase.ROLLED_BACK:
        raise ReleaseRefused(f"rollout {inputs.rollout} of {service} is not running; nothing was done")
    return Waiting(rollout=over.id, since=ledger.current_time(url), run_id=inputs.run.run_id)


def poll(waiting: Waiting, settings: Settings) -> Result | None:
    """Return the result when the version serves, or None while there is to wait.

    Raises:
        RolledBack: when the version did not come up, and what served before still does.
        ControllerSilent: when nobody decides.
        LedgerUnavailable: when the ledger is away.
    """
    url = settings.ledger_url()
    rollout = ledger.read_rollout(url, waiting.rollout)
    if not rollout.state.is_final:
        fleet, router, _ = adapters.connect(settings)
        check_controller(url, rollout, waiting.since, fleet=fleet, router=router)
        return None
    champion = ledger.champion(url, rollout.service)
    number = None if champion is None else champion.number
    if waiting.run_id and waiting.then not in (None, number):
        following = orders.return_to(url, rollout.service, waiting.then, run_id=waiting.run_id, person=waiting.person)
        return poll(Waiting(rollout=following.id, since=waiting.since), settings)
    is_undone = bool(waiting.run_id) and rollout.state.phase is Phase.ROLLED_BACK
    if not is_undone and rollout.state.outcome not in (Outcome.PROMOTED, Outcome.ALREADY_SERVING):
        raise RolledBack(f"{rollout}: {rollout.state.phase} as {rollout.state.outcome}: {rollout.state.detail}")
    return Result(rollout=rollout.id, version=number, detail=f"{rollout}: version {number} serves")
