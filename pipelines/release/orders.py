"""What a person may order, with Airflow up or down: go on, go back, return to an old version."""

from __future__ import annotations

from pipelines import ledger
from pipelines.errors import BadInput, ReleaseRefused
from pipelines.ledger import Candidate, Outcome, Phase, Rollout, Version
from pipelines.release import course
from pipelines.release.lowering import request_rollback
from pipelines.release.ports import Fleet, Router


def running(url: str, service: str) -> Rollout | None:
    """Return the rollout of a service that is not over, the active one before queued ones.

    Raises:
        BadInput: when there is no such service.
    """
    snapshot = ledger.snapshot(url, service)
    if snapshot is None:
        known = ", ".join(ledger.list_services(url)) or "none"
        raise BadInput(f"service {service!r} is not in the ledger; known services: {known}")
    return snapshot.rollout


def promote(url: str, service: str, person: str) -> Rollout:
    """Permit every transition that is left, approvals too; the evidence is still asked for.

    Raises:
        BadInput: when there is no such service.
        ReleaseRefused: when it has no rollout that could go on.
    """
    rollout = running(url, service)
    if rollout is None or rollout.state.phase is Phase.ROLLING_BACK:
        raise ReleaseRefused(f"{service} has no rollout that could go on; `release status` shows what there is")
    for transition in course.transitions(rollout.config):
        for permit in sorted(course.required(rollout, transition)):
            ledger.insert_permit(url, service, rollout.id, permit, approved_by=person)
    return rollout


def abort(url: str, service: str, person: str, *, fleet: Fleet, router: Router) -> Rollout:
    """Take a service's users back to the old version at once; the controller, if there is one, does the rest.

    Raises:
        BadInput: when there is no such service.
        ReleaseRefused: when it has no rollout.
    """
    rollout = running(url, service)
    if rollout is None:
        raise ReleaseRefused(f"{service} has no rollout to abort; `release rollback` returns to an earlier version")
    return request_rollback(url, rollout.id, Outcome.ABORTED, f"aborted by {person}", fleet=fleet, router=router)


def return_to(url: str, service: str, number: int | None, *, run_id: str, person: str) -> Rollout:
    """Open the rollout that returns a service to a version that was in production; analysis is skipped.

    Args:
        url: the ledger.
        service: whose.
        number: of the version; None: the one before the present.
        run_id: of the execution that asks; asking again for the same finds the same rollout.
        person: who asks, for the audit.

    Raises:
        BadInput: when there is no such service or version.
        ReleaseRefused: when there is nothing to return to.
    """
    running(url, service)
    version = version_to_return_to(url, service, number)
    candidate = Candidate.model_validate(version.model_dump(include=set(Candidate.model_fields)))
    return ledger.open_rollout(
        url,
        candidate,
        run_id=run_id,
        forced=True,
        override=f"return to version {version.number}, ordered by {person}",
        is_direct=True,
        permits=course.transitions(candidate.rollout),
    )


def returns(url: str, service: str) -> list[Version]:
    """Return the versions that were in production and do not serve, the latest first."""
    champion = ledger.champion(url, service)
    known = ledger.promoted_versions(url, service)
    return [version for version in known if champion is None or version.id != champion.id]


def version_to_return_to(url: str, service: str, number: int | None) -> Version:
    """Return the version of that number, or the one before the present.

    Raises:
        ReleaseRefused: when there is no such version to return to.
    """
    others = returns(url, service)
    champion = ledger.champion(url, service)
    if number is not None:
        others = [version for version in others if version.number == number]
    elif champion is not None:  # a later one was left already, and mostly for a reason
        others = [version for version in others if version.number < champion.number]
    if others:
        return others[0]
    raise _nothing_to_return_to(url, service, "earlier version" if number is None else f"other version {number}")


def check_promoted(url: str, service: str, number: int) -> None:
    """See that a version was in production, whatever serves now.

    Raises:
        ReleaseRefused: when it never was.
    """
    if all(version.number != number for version in ledger.promoted_versions(url, service)):
        raise _nothing_to_return_to(url, service, f"version {number}")


def _nothing_to_return_to(url: str, service: str, wanted: str) -> ReleaseRefused:
    champion = ledger.champion(url, service)
    numbers = ", ".join(str(version.number) for version in ledger.promoted_versions(url, service)) or "none"
    return ReleaseRefused(
        f"{service} has no {wanted} to return to; versions that were in production: {numbers}; serving: "
        f"{'none' if champion is None else champion.number}"
    )
