"""The ledger: the transactional record of versions, rollouts, permits and events."""

from __future__ import annotations

from pipelines.ledger.events import ChainBroken, Event, events, verify_chain
from pipelines.ledger.evidence import Evidence
from pipelines.ledger.heartbeat import beat, controller_lock, current_time, silence_seconds
from pipelines.ledger.migrations import migrate
from pipelines.ledger.pairs import Pair, insert_pair, list_pairs
from pipelines.ledger.permits import insert_permit
from pipelines.ledger.records import (
    Candidate,
    Outcome,
    Phase,
    Rollout,
    RolloutState,
    Service,
    Snapshot,
    Version,
    as_facts,
)
from pipelines.ledger.rollouts import (
    StaleRollout,
    earlier_trials,
    find_rollout,
    find_rollout_by_id,
    list_rollouts,
    open_rollout,
    read_rollout,
    record_release,
    save,
    snapshot,
)
from pipelines.ledger.services import claim_port, claimed_ports, list_services, read_service
from pipelines.ledger.versions import (
    champion,
    champion_for_evaluation,
    promoted_versions,
    promotions,
    referenced_artifacts,
    was_promoted,
)

__all__ = [
    "Candidate",
    "ChainBroken",
    "Event",
    "Evidence",
    "Outcome",
    "Pair",
    "Phase",
    "Rollout",
    "RolloutState",
    "Service",
    "Snapshot",
    "StaleRollout",
    "Version",
    "as_facts",
    "beat",
    "champion",
    "champion_for_evaluation",
    "claim_port",
    "claimed_ports",
    "controller_lock",
    "current_time",
    "earlier_trials",
    "events",
    "find_rollout",
    "find_rollout_by_id",
    "insert_pair",
    "insert_permit",
    "list_pairs",
    "list_rollouts",
    "list_services",
    "migrate",
    "open_rollout",
    "promoted_versions",
    "promotions",
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
