"""Release a version, one task per phase: each permits the next transition and waits until the controller has made it.

A task begins (`begin`), then polls (`poll`), deferred or not; `wait` does both for the command line. Nothing is decided
here: the controller looks and decides whether or not anybody waits.
"""

from __future__ import annotations

from typing import Self

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, ReleaseRefused, RolledBack
from pipelines.ledger import Candidate, Outcome, Phase, Rollout
from pipelines.release import adapters
from pipelines.release.course import Transition, transitions
from pipelines.release.lowering import check_controller
from pipelines.release.passing import is_passed
from pipelines.settings import Settings
from pipelines.spec import Frozen, ModelSpec, RolloutConfig
from pipelines.step import RunInfo, wait_until_settled
from pipelines.store import Store

CLEAR_FROM_STAGE = "clear from rollout.stage"


class Inputs(Frozen):
    """What is released; the same for every phase."""

    run: RunInfo
    """With `force`, weights that were in production earlier are released again."""

    override: str = ""
    """Why weights that were rolled back as worse, or refused, may try again."""

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
    transition: str
    since: float
    """When the wait began, by the ledger's clock."""


class Result(Frozen):
    """A phase that is behind the rollout."""

    rollout: int
    attempt: int
    transition: str
    version: int
    outcome: Outcome
    """`already_serving` and `superseded`: nothing was to be done."""

    detail: str

    @classmethod
    def of(cls, rollout: Rollout, transition: str) -> Self:
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
    url, run = settings.ledger_url(), inputs.run
    if phase == Transition.STAGE:
        candidate = _candidate(inputs, Store(settings.store_url()))
        rollout = ledger.open_rollout(url, candidate, run_id=run.run_id, forced=run.force, override=inputs.override)
    else:
        rollout = _opened(url, run)
        phase, permits = permitted_by(phase, rollout.config)
        if not is_passed(rollout, phase):
            for transition in permits:
                ledger.insert_permit(url, rollout.service, rollout.id, transition)
    return Waiting(rollout=rollout.id, transition=phase, since=ledger.current_time(url))


def permitted_by(phase: str, config: RolloutConfig) -> tuple[str, tuple[str, ...]]:
    """Return the transition that a task stands for, and what it permits: whoever asks for a later one has no objection
    to those before it. The tasks come from the spec as it is now, the rollout's weights from when it was opened.

    Raises:
        BadInput: when there is no such phase.
    """
    order = transitions(config)
    if phase not in order:
        if not phase.startswith("advance_"):
            raise BadInput(f"rollout: {phase!r} is no phase; there are {', '.join(order)}")
        lower = [transition for transition in order if transition.startswith("advance_") and transition <= phase]
        phase = lower[-1] if lower else Transition.SHADOW
    return phase, order[1 : order.index(phase) + 1]


def approve(run: RunInfo, approval: str, approver: str, settings: Settings) -> None:
    """Keep a person's approval of this run's rollout, with the person's name.

    Raises:
        ReleaseRefused: when this run has no rollout that could go on.
        LedgerUnavailable: when the ledger is away.
    """
    rollout = _opened(settings.ledger_url(), run)
    ledger.insert_permit(settings.ledger_url(), rollout.service, rollout.id, approval, approved_by=approver)


def poll(waiting: Waiting, settings: Settings) -> Result | None:
    """Return the result when the phase is passed, or None when there is more to wait for.

    Raises:
        RolledBack: when the rollout ended with the old version serving, or is about to.
        ControllerSilent: when nobody decides; users were taken from the candidate if that was possible.
        LedgerUnavailable: when the ledger is away.
    """
    url = settings.ledger_url()
    rollout = ledger.read_rollout(url, waiting.rollout)
    if is_passed(rollout, waiting.transition):
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
    return wait_until_settled(lambda: poll(waiting, settings))


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
        silence_seconds=spec.service.silence_seconds,
    )
