"""The ledger: the transactional record of versions, rollouts, permits and events."""

from __future__ import annotations

from pipelines.ledger.events import ChainBroken, Event, events, verify_chain
from pipelines.ledger.heartbeat import beat, controller_lock, current_time, silence_seconds
from pipelines.ledger.migrations import migrate
from pipelines.ledger.permits import insert_permit
from pipelines.ledger.records import Candidate, Outcome, Phase, Rollout, RolloutState, Service, Snapshot, Version
from pipelines.ledger.rollouts import (
    StaleRollout,
    find_rollout,
    open_rollout,
    read_rollout,
    record_release,
    save,
    snapshot,
)
from pipelines.ledger.services import claim_port, claimed_ports, list_services, read_service
from pipelines.ledger.versions import champion, champion_for_evaluation, referenced_artifacts, was_promoted

__all__ = [
    "Candidate",
    "ChainBroken",
    "Event",
    "Outcome",
    "Phase",
    "Rollout",
    "RolloutState",
    "Service",
    "Snapshot",
    "StaleRollout",
    "Version",
    "beat",
    "champion",
    "champion_for_evaluation",
    "claim_port",
    "claimed_ports",
    "controller_lock",
    "current_time",
    "events",
    "find_rollout",
    "insert_permit",
    "list_services",
    "migrate",
    "open_rollout",
    "read_rollout",
    "read_service",
    "record_release",
    "referenced_artifacts",
    "save",
    "silence_seconds",
    "snapshot",
    "verify_chain",
    "was_promoted",
]
