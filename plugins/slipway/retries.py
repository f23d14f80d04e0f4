"""When a failed try is followed by the next one, and where that runs; whether at all is the error's own word."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from pipelines.errors import NoRoom, PodTakenAway
from slipway.errors import TryFailed

if TYPE_CHECKING:
    from airflow.sdk import Context

SOON = timedelta(seconds=10)
"""After a pod was taken away: waiting longer each time would punish the step for what the cluster did."""

WHEN_OTHERS_HAVE_ENDED = timedelta(minutes=10)
"""After there was no room: a refusal by quota costs no time, so the usual pauses would use up all tries at once."""

_LONGEST_REASON = 500
"""Characters that Airflow's database keeps."""

_LAST = "the next try is the last: it asks for nodes that are not taken away (resources.<step>.on_demand_node_selector)"


class StepRetryPolicy(RetryPolicy):
    """Airflow's usual pauses, but for what the cluster does to pods; the reason is shown beside the try."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Return when to try again, and why; a last try has no next one."""
        if not isinstance(exception, TryFailed) or is_last_try(try_number, max_tries):
            return RetryDecision.default()
        reason = str(exception.error).partition("\n")[0]
        if is_last_try(try_number + 1, max_tries):
            reason = f"{_LAST}; {reason}"
        return RetryDecision.retry(_delay(exception), reason[:_LONGEST_REASON])

    def serialize(self) -> dict[str, Any]:
        """Return what the database keeps of it: nothing, for only the task's own process asks."""
        return {}


def is_last_try(try_number: int, max_tries: int) -> bool:
    """Return whether Airflow will not try a task again after this try."""
    return try_number > max_tries


def _delay(failed: TryFailed) -> timedelta | None:
    """Return the pause before the next try; None: Airflow's usual one."""
    match failed.error:
        case PodTakenAway():
            return SOON
        case NoRoom():
            return WHEN_OTHERS_HAVE_ENDED
        case _:
            return None
