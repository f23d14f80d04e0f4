"""Which transitions are behind a rollout: what a task that waits for one asks."""

from __future__ import annotations

from pipelines.ledger import Phase, Rollout
from pipelines.release.course import Transition, advance_to, transitions


def is_passed(rollout: Rollout, transition: str) -> bool:
    """Say whether the phase that a permit allowed is behind the rollout.

    A rollout without a comparison passes what it has no use for: mirroring and the weights.
    """
    order = transitions(rollout.config)
    return order.index(transition) < _num_passed(rollout, order)


def _num_passed(rollout: Rollout, order: tuple[str, ...]) -> int:
    state = rollout.state
    match state.phase:
        case Phase.PROMOTED | Phase.NOT_NEEDED:
            return len(order)
        case Phase.QUEUED | Phase.ROLLING_BACK | Phase.ROLLED_BACK | Phase.ROLLBACK_FAILED:
            return 0
        case Phase.WARMUP if state.is_done and not rollout.is_compared:
            return order.index(Transition.PROMOTE)
        case Phase.STEP:
            return order.index(advance_to(rollout.config.weights[state.step])) + state.is_done
        case Phase.STAGE | Phase.SMOKE | Phase.WARMUP | Phase.SHADOW:
            return order.index(Transition(state.phase)) + state.is_done
        case _:
            return order.index(Transition.PROMOTE if state.phase is Phase.PROMOTING else Transition.BAKE)
