"""Tell people that a task failed: one line in the log, and JSON to a webhook when one is configured."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0


class FailureNotifier(BaseNotifier):
    """Report a failure with model, run, step, error and log link. A webhook that does not answer is logged, no more."""

    def notify(self, context: Context) -> None:
        """Write the line and post the same facts."""
        facts = failure_facts(context)
        logger.error("task failed: %s", " ".join(f"{name}={json.dumps(value)}" for name, value in facts.items()))
        from pipelines.settings import Settings

        url = Settings().webhook
        if url:
            post(url, facts)


def failure_facts(context: Context) -> dict[str, Any]:
    """Return what a person needs to know about a failed task."""
    ti = context["ti"]
    error = context.get("exception")
    return {
        "model": getattr(context.get("task"), "model", ""),
        "run": ti.run_id,
        "step": ti.task_id,
        "try": ti.try_number,
        "error": str(error) if error else "the task's process ended without a word",
        "log": getattr(ti, "log_url", ""),
    }


def post(url: str, facts: dict[str, Any]) -> None:
    """Send facts as JSON; never raises, for a notice must not change what it tells of."""
    import httpx

    try:
        httpx.post(url, json=facts, timeout=TIMEOUT_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.warning("webhook %s did not take the notice: %s", url, error)
