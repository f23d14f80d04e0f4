"""Release a version, one task per phase: each permits the next transition and waits until the controller has made it.

A task begins (`begin`), then polls (`poll`), deferred or not; `wait` does both for the command line. Nothing is decided
here: the controller looks and decides whether or not anybody waits.
"""

from __future__ import annotations

import time
from typing import Self

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, ReleaseRefused, RolledBack
from pipelines.ledger import Candidate, Outcome, Phase, Rollout
from pipelines.release.local import adapters
from pipelines.release.lowering import check_controller
from pipelines.release.rollout import Transition, is_passed
from pipelines.settings import Settings
from pipelines.spec import Frozen, ModelSpec
from pipelines.step import RunInfo
from pipelines.store import Store

POLL_SECONDS = 0.5
CLEAR_FROM_STAGE = "clear from rollout.stage"


class Inputs(Frozen):
    """What is released; the same for every phase."""

    run: RunInfo
    """With `force`, weights that were in production earlier are released again."""

    bento: ArtifactRef
    tag: str
    weights: ArtifactRef
    evaluation: ArtifactRef
    """Report of the evaluation."""

    evaluated_against: ArtifactRef | None = None
    """Model that was champion when the candidate was evaluated."""

    perplexity: float
    perplexity_low: float
    perplexity_high: float
    spec: ArtifactRef


class Waiting(Frozen):
    """What a task waits for; small and plain, so that a trigger can carry it."""

    rollout: int
    transition: Transition
    since: float
    """When the wait began, by the ledger's clock."""


class Result(Frozen):
    """A phase that is behind the rollout."""

    rollout: int
    attempt: int
    transition: Transition
    version: int
    outcome: Outcome
    """`already_serving` and `superseded`: nothing was to be done."""

    detail: str

    @classmethod
    def of(cls, rollout: Rollout, transition: Transition) -> Self:
        """Return what there is to say about a phase that was passed."""
        return cls(
            rollout=rollout.id,
            attempt=rollout.attempt,
            transition=transition,
            version=rollout.candidate.number,
            outcome=rollout.state.outcome,
            detail=rollout.state.detail or f"{transition} of version {rollout.candidate.number} is done",
        )


def begin(phase: str, inputs: Inputs, settings: Settings) -> Waiting:
    """Permit a phase's transition; `stage` opens the rollout, or attaches to the one that this run has open.

    A phase that is passed already needs nothing: the first poll says so.

    Raises:
        ReleaseRefused: when this run has no rollout that the phase could go on with.
        LedgerUnavailable: when the ledger is away.
    """
    transition, url, run = Transition(phase), settings.ledger_url(), inputs.run
    if transition is Transition.STAGE:
        candidate = _candidate(inputs, Store(settings.store_url()))
        rollout = ledger.open_rollout(url, candidate, run_id=run.run_id, forced=run.force)
    else:
        rollout = _opened(url, run)
        if not is_passed(rollout.state, transition):
            ledger.insert_permit(url, rollout.service, rollout.id, transition)
    return Waiting(rollout=rollout.id, transition=transition, since=ledger.current_time(url))


def poll(waiting: Waiting, settings: Settings) -> Result | None:
    """Return the result when the phase is passed, or None when there is more to wait for.

    Raises:
        RolledBack: when the rollout ended with the old version serving, or is about to.
        ControllerSilent: when nobody decides; users were taken from the candidate if that was possible.
        LedgerUnavailable: when the ledger is away.
    """
    url = settings.ledger_url()
    rollout = ledger.read_rollout(url, waiting.rollout)
    if is_passed(rollout.state, waiting.transition):
        return Result.of(rollout, waiting.transition)
    if rollout.state.phase in (Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED):
        raise RolledBack(f"{rollout}: {rollout.state.phase} as {rollout.state.outcome}: {rollout.state.detail}")
    fleet, router, _ = adapters.connect(settings)
    check_controller(url, rollout, waiting.since, fleet=fleet, router=router)
    return None


def wait(waiting: Waiting, settings: Settings) -> Result:
    """Poll until the phase is passed; every state of a rollout has a deadline, so this ends.

    Raises:
        RolledBack, ControllerSilent, LedgerUnavailable: see `poll`.
    """
    while (result := poll(waiting, settings)) is None:
        time.sleep(POLL_SECONDS)
    return result


def _opened(url: str, run: RunInfo) -> Rollout:
    rollout = ledger.find_rollout(url, run.model, run.run_id)
    if rollout is None:
        raise ReleaseRefused(f"rollout of {run.model}: run {run.run_id} has none; {CLEAR_FROM_STAGE}")
    if rollout.state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED):
        raise ReleaseRefused(f"{rollout}: {rollout.state.phase} as {rollout.state.outcome}; {CLEAR_FROM_STAGE}")
    return rollout


def _candidate(inputs: Inputs, store: Store) -> Candidate:
    spec = ModelSpec.model_validate_json(artifacts.read_file(store, inputs.spec, "spec.json"))
    if spec.name != inputs.run.model:
        raise BadInput(f"rollout of {inputs.run.model}: spec {inputs.spec.short} is of {spec.name}")
    return Candidate(
        service=spec.name,
        bento=inputs.bento,
        tag=inputs.tag,
        model=inputs.weights,
        evaluation=inputs.evaluation,
        evaluated_against=inputs.evaluated_against,
        numbers={name: getattr(inputs, name) for name in ("perplexity", "perplexity_low", "perplexity_high")},
        spec=inputs.spec,
        rollout=spec.rollout,
        is_idempotent=spec.service.idempotent,
    )
