"""Scores of reference requests by two models: each reference once per pair of models."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from pipelines.artifacts import ArtifactRef
from pipelines.ledger import tables
from pipelines.ledger.database import transaction


@dataclass(frozen=True)
class Pair:
    """What two models made of one reference request."""

    reference: str
    """sha256 of the request's id."""

    stable_score: float | None
    """Log-probability of the reference continuation, nats per byte; None: no valid answer."""

    candidate_score: float | None


def insert_pair(url: str, service: str, stable: ArtifactRef, candidate: ArtifactRef, pair: Pair) -> bool:
    """Keep a pair; return False when this reference was scored by the two models before."""
    values = {
        "service": service,
        "stable": stable.uri,
        "candidate": candidate.uri,
        "reference": pair.reference,
        "stable_score": pair.stable_score,
        "candidate_score": pair.candidate_score,
    }
    try:
        with transaction(url) as connection:
            connection.execute(insert(tables.pairs).values(values))
    except IntegrityError:
        return False
    return True


def list_pairs(url: str, service: str, stable: ArtifactRef, candidate: ArtifactRef, skip: int = 0) -> list[Pair]:
    """Return the pairs of two models in the order in which they were scored, after the first `skip`."""
    table = tables.pairs
    query = (
        select(table.c.reference, table.c.stable_score, table.c.candidate_score)
        .where(table.c.service == service, table.c.stable == stable.uri, table.c.candidate == candidate.uri)
        .order_by(table.c.id)
        .offset(skip)
    )
    with transaction(url) as connection:
        return [Pair(*row) for row in connection.execute(query)]
