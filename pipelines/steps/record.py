"""Record a release: the version, where it serves, what its evaluation said; a plain leaf of the lifecycle."""

from __future__ import annotations

import time

from pipelines import ledger
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ReleaseRefused
from pipelines.ledger import Outcome, Phase, Rollout, Service, Version
from pipelines.release import adapters
from pipelines.release.endpoints import endpoint as endpoint_of
from pipelines.release.ports import Probe, ProbeFailed, Served
from pipelines.settings import Settings
from pipelines.spec import Frozen
from pipelines.step import RunInfo

POLL_SECONDS = 0.5


class Inputs(Frozen):
    """Which run is recorded."""

    run: RunInfo


class Result(Frozen):
    """What serves when the run is over."""

    version: int
    digest: str
    """Digest of the model, as the endpoint itself reports it."""

    bento: ArtifactRef
    evaluation: ArtifactRef
    endpoint: str
    outcome: Outcome
    detail: str


def run(inputs: Inputs, settings: Settings) -> Result:
    """Read again through the router what serves, and leave the final record; a second time changes nothing.

    Raises:
        ReleaseRefused: when this run's rollout did not end with a version in production, or the endpoint does not
            answer as the version that the ledger says is there.
        LedgerUnavailable: when the ledger is away.
    """
    url, run = settings.ledger_url(), inputs.run
    rollout = _finished(ledger.find_rollout(url, run.model, run.run_id), run)
    service = ledger.read_service(url, run.model)
    if service is None or service.champion is None or service.port is None:
        raise ReleaseRefused(f"{rollout}: the ledger names no version in production; clear from rollout.stage")
    probe = adapters.connect(settings).probe
    served = _wait_until_served(service, service.champion, probe)
    endpoint = endpoint_of(settings, service.name, service.port)
    ledger.record_release(url, rollout, endpoint=endpoint, serving=service.champion.number, digest=served.digest)
    return Result(
        version=service.champion.number,
        digest=served.digest,
        bento=service.champion.bento,
        evaluation=service.champion.evaluation,
        endpoint=endpoint,
        outcome=rollout.state.outcome,
        detail=rollout.state.detail,
    )


def _finished(rollout: Rollout | None, run: RunInfo) -> Rollout:
    if rollout is None:
        raise ReleaseRefused(f"record: run {run.run_id} of {run.model} has no rollout; clear from rollout.stage")
    if rollout.state.phase not in (Phase.PROMOTED, Phase.NOT_NEEDED):
        way_out = "clear from rollout.stage" if rollout.state.is_final else "wait for rollout.promote"
        raise ReleaseRefused(f"record: {rollout} is {rollout.state.phase} ({rollout.state.detail}); {way_out}")
    return rollout


def _wait_until_served(service: Service, champion: Version, probe: Probe) -> Served:
    """Return who answers; a copy that the supervisor has just brought back gets its time to become ready."""
    deadline = time.monotonic() + champion.rollout.ready_timeout_seconds
    while True:
        try:
            served = probe.served(service.port or 0)
            if served.is_of(champion):
                return served
            found = f"answers as {served}"
        except ProbeFailed as failure:
            found = str(failure)
        if time.monotonic() > deadline:
            raise ReleaseRefused(f"record: version {champion.number} of {service.name} does not serve: {found}")
        time.sleep(POLL_SECONDS)
