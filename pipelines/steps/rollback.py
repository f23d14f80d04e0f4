"""Roll back what this run has begun to release, and see that the old version serves."""

from __future__ import annotations

from typing import Self

from pipelines import ledger
from pipelines.errors import SlipwayError
from pipelines.ledger import Outcome, Phase, Rollout
from pipelines.release import adapters
from pipelines.release.lowering import check_controller, request_rollback
from pipelines.release.ports import Probe
from pipelines.settings import Settings
from pipelines.spec import Frozen
from pipelines.step import RunInfo, wait_until_settled


class RollbackFailed(SlipwayError):
    """The old version could not be brought back; a person must look."""


class Inputs(Frozen):
    """Whose rollout goes back."""

    run: RunInfo
    reason: str = "a task of the run failed"


class Waiting(Frozen):
    """What a task waits for; small and plain, so that a trigger can carry it."""

    rollout: int
    since: float
    """When the wait began, by the ledger's clock."""


class Result(Frozen):
    """What there was to do, and what serves now."""

    is_skipped: bool
    """Nothing was to be done: this run opened no rollout, or its version is in production."""

    detail: str
    version: int | None = None
    """Version that serves; None after a first release, when there is none."""

    @classmethod
    def skipped(cls, detail: str) -> Self:
        """Return that nothing was to be done."""
        return cls(is_skipped=True, detail=detail)


def begin(inputs: Inputs, settings: Settings) -> Waiting | Result:
    """Ask for the rollback of this run's latest rollout, unless there is none or it ended well.

    Raises:
        LedgerUnavailable: when the ledger is away.
    """
    url, run = settings.ledger_url(), inputs.run
    rollout = ledger.find_rollout(url, run.model, run.run_id)
    if rollout is None:
        return Result.skipped(f"run {run.run_id} of {run.model} opened no rollout")
    if rollout.state.phase in (Phase.PROMOTED, Phase.NOT_NEEDED):
        return Result.skipped(f"{rollout} is {rollout.state.phase}: {rollout.state.detail}")
    fleet, router, _ = adapters.connect(settings)
    request_rollback(url, rollout.id, Outcome.ABORTED, inputs.reason, fleet=fleet, router=router)
    return Waiting(rollout=rollout.id, since=ledger.current_time(url))


def poll(waiting: Waiting, settings: Settings) -> Result | None:
    """Return the result when the old version serves, read again through the router, or None while there is to wait.

    Raises:
        RollbackFailed: when it could not be brought back, or the endpoint answers as another version.
        ControllerSilent: when nobody finishes the rollback.
        LedgerUnavailable: when the ledger is away.
    """
    url = settings.ledger_url()
    rollout = ledger.read_rollout(url, waiting.rollout)
    fleet, router, probe = adapters.connect(settings)
    match rollout.state.phase:
        case Phase.ROLLED_BACK:
            return _verified(url, rollout, probe)
        case Phase.PROMOTED:
            return Result.skipped(f"{rollout} was promoted before the rollback was asked for")
        case Phase.ROLLBACK_FAILED:
            raise RollbackFailed(f"{rollout}: {rollout.state.detail}; look at the copies' logs, then release again")
        case _:
            check_controller(url, rollout, waiting.since, fleet=fleet, router=router)
            return None


def wait(waiting: Waiting, settings: Settings) -> Result:
    """Poll until the rollback is over.

    Raises:
        RollbackFailed, ControllerSilent, LedgerUnavailable: see `poll`.
    """
    return wait_until_settled(lambda: poll(waiting, settings))


def _verified(url: str, rollout: Rollout, probe: Probe) -> Result:
    service = ledger.read_service(url, rollout.service)
    if service is None or service.champion is None or service.port is None:
        return Result(is_skipped=False, detail=f"{rollout}: rolled back; no version was in production before")
    served = probe.served(service.port)
    if not served.is_of(service.champion):
        raise RollbackFailed(f"{rollout}: rolled back, but the endpoint answers as {served}")
    detail = f"{rollout}: rolled back ({rollout.state.outcome}); version {service.champion.number} serves"
    return Result(is_skipped=False, detail=detail, version=service.champion.number)
