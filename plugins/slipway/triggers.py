"""Wait for the ledger without holding a worker."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from typing import TYPE_CHECKING, Any, Self

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic import BaseModel

    from pipelines.settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class LedgerTrigger(BaseTrigger):
    """Fire when a ledger step is settled, however it ended, or when its deadline has passed.

    It only wakes the task, which asks the ledger itself: what the task then says is true at that moment. The deadline
    is a moment, not a duration, so that a triggerer that starts again does not begin to wait anew.
    """

    def __init__(self, step: str, waiting: dict[str, Any], started: float, deadline: float) -> None:
        """Take the step's module, its own note of what it waits for, and two moments in seconds since the epoch."""
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow leaves it untyped
        self.step = step
        self.waiting = waiting
        self.started = started
        self.deadline = deadline

    @classmethod
    def of(cls, waiting: BaseModel, started: float, deadline: float) -> Self:
        """Return the trigger for what a step's `begin` returned."""
        return cls(type(waiting).__module__, waiting.model_dump(mode="json"), started, deadline)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again in the triggerer."""
        return "slipway.triggers.LedgerTrigger", self._arguments()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask the ledger until there is something to tell; a ledger that is away may come back."""
        while time.time() < self.deadline and not await asyncio.to_thread(self._is_settled):
            await asyncio.sleep(POLL_SECONDS)
        yield TriggerEvent(self._arguments())  # type: ignore[no-untyped-call]  # Airflow leaves it untyped

    def poll(self, settings: Settings) -> BaseModel | None:
        """Return the step's result, or None while there is more to wait for.

        Raises:
            SlipwayError: when the step ended in another way.
        """
        module = importlib.import_module(self.step)
        result: BaseModel | None = module.poll(module.Waiting.model_validate(self.waiting), settings)
        return result

    def _is_settled(self) -> bool:
        from pipelines.errors import LedgerUnavailable
        from pipelines.settings import Settings

        try:
            return self.poll(Settings()) is not None
        except LedgerUnavailable as error:
            logger.warning("%s; asking again", error)
            return False
        except Exception:
            logger.exception("%s: no more waiting; the task asks again and tells it", self.step)
            return True

    def _arguments(self) -> dict[str, Any]:
        return {"step": self.step, "waiting": self.waiting, "started": self.started, "deadline": self.deadline}


def is_waiting(asked: BaseModel) -> bool:
    """Return whether a step's `begin` returned what to wait for, rather than the result."""
    return type(asked).__name__ == "Waiting"
